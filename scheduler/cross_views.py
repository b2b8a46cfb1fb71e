"""What the tokens of a request attend to, where it is an encoder's states.

Mostly that is one input, for all tokens. A decoder that attends to several (Llama 3.2 Vision)
shows each of them from its token in the prompt on: tokens see the latest images, those whose
tokens stand side by side; those before the first image see all, with the parts of them that are
shown to no later token (see `decoder/models/mllama.py`).

No attention backend takes such a mask, and none is needed. What tokens see together lies in pages
side by side, so that a page table and a length say it (a view). A step computes tokens of one view
in each row: prompts are cut where the next image stands.
"""

import hashlib
from collections.abc import Sequence
from enum import IntEnum
from itertools import accumulate
from typing import NamedTuple, Protocol, Self

import msgspec
import numpy as np

from antiphon.config.arithmetic import ceil_div


class Sees(IntEnum):
    """What a token attends to."""

    NOTHING = 0
    ALL = 1  # it stands before all images
    LATEST = 2


class Attended(Protocol):
    """An input that a decoder attends to, as `Media` has it."""

    @property
    def key(self) -> str: ...

    @property
    def num_tokens(self) -> int: ...

    @property
    def token(self) -> int | None: ...

    @property
    def shown(self) -> int: ...

    @property
    def keep(self) -> bool: ...


class CrossSource(NamedTuple):
    """`length` hidden states of the input `key`, from number `first`. `start`: of the token in the
    cross pages where they go."""

    key: str
    first: int
    length: int
    start: int


class View(NamedTuple):
    """Tokens of the prompt from `start` on attend to `length` keys, from the beginning of run
    number `run`."""

    start: int
    run: int
    length: int
    sees: Sees


class CrossChange(NamedTuple):
    """The next tokens of the sequence in `slot` attend to `length` keys in `pages`."""

    slot: int
    pages: np.ndarray  # [pages] int32
    length: int
    sees: int


Part = tuple[Attended, int, int]  # an input, its first hidden state, and their number


class CrossInput(msgspec.Struct, frozen=True):
    """All that a request attends to. `key`: of its cross KV. `runs`: each begins a page, and lies
    without gaps. `views`: by `start`, from 0 on. `longest`: keys that a token sees, at most.
    `is_whole`: all of one input is seen by all tokens."""

    key: str
    runs: tuple[tuple[Part, ...], ...]
    views: tuple[View, ...]
    keep: bool
    longest: int
    is_whole: bool = False

    @classmethod
    def of(cls, inputs: Sequence[Attended]) -> Self | None:
        """None without any."""
        if not inputs:
            return None
        first = inputs[0]
        if first.token is None:
            whole = View(0, 0, first.num_tokens, Sees.LATEST)
            run = ((first, 0, first.num_tokens),)
            return cls(first.key, (run,), (whole,), first.keep, whole.length, is_whole=True)
        runs, views = [list[Part]()], list[View]()
        for media, last in zip(inputs, [None, *inputs], strict=False):
            assert media.token is not None
            if last is not None and last.token != media.token - 1:
                runs.append([])
            runs[-1].append((media, 0, media.shown))
            views.append(View(media.token, len(runs) - 1, _length(runs[-1]), Sees.LATEST))
        if first.token:
            if len(runs) > 1:
                runs.append([(media, 0, media.shown) for media in inputs])
            runs[-1] += [(media, media.shown, media.num_tokens - media.shown) for media in inputs]
            views.insert(0, View(0, len(runs) - 1, _length(runs[-1]), Sees.ALL))
        name = [[(media.key, first, count) for media, first, count in run] for run in runs]
        key = hashlib.sha256(repr(name).encode()).hexdigest()[:32]
        keep = all(media.keep for media in inputs)
        longest = max(view.length for view in views)
        return cls(key, tuple(map(tuple, runs)), tuple(views), keep, longest)

    def num_pages(self, page_size: int) -> int:
        if self.is_whole:
            return ceil_div(self.longest, page_size)
        return sum(ceil_div(_length(run), page_size) for run in self.runs)

    def sources(self, page_size: int) -> tuple[CrossSource, ...]:
        """What is written to its pages."""
        made: list[CrossSource] = []
        for run, first_page in zip(self.runs, self._first_pages(page_size), strict=True):
            start = first_page * page_size
            for media, first, count in run:
                if count:
                    made.append(CrossSource(media.key, first, count, start))
                start += count
        return tuple(made)

    def view_at(self, token: int) -> int:
        """Number of the view of the prompt's token number `token`."""
        if len(self.views) == 1:
            return 0
        return sum(view.start <= token for view in self.views) - 1

    def change(self, slot: int, number: int, pages: np.ndarray, page_size: int) -> CrossChange:
        """To view `number` of the sequence in `slot`; `pages`: all of this input's."""
        view = self.views[number]
        first = self._first_pages(page_size)[view.run]
        seen = pages[first : first + ceil_div(view.length, page_size)]
        return CrossChange(slot, seen, view.length, view.sees)

    def _first_pages(self, page_size: int) -> list[int]:
        if len(self.runs) == 1:
            return [0]
        counts = [ceil_div(_length(run), page_size) for run in self.runs]
        return list(accumulate(counts[:-1], initial=0))


def _length(run: Sequence[Part]) -> int:
    return sum(count for _, _, count in run)


class RunningViews:
    """The views of running sequences. `ends` [slots] int: the first token of the next view; 0 where
    the present one is the last."""

    def __init__(self, max_seqs: int) -> None:
        self.ends = np.zeros(max_seqs, np.int64)
        self._inputs: dict[int, tuple[CrossInput, np.ndarray]] = {}  # with its pages, by slot

    def enter(self, slot: int, cross: CrossInput | None, pages: np.ndarray, token: int) -> None:
        """The sequence in `slot` computes `token` next; `pages`: of `cross`."""
        if cross is not None and len(cross.views) > 1:
            self._inputs[slot] = (cross, pages)
            self._set_end(slot, cross, cross.view_at(token))

    def leave(self, slot: int) -> None:
        """The sequence in `slot` is gone, and its inputs are let go."""
        self._inputs.pop(slot, None)

    def _set_end(self, slot: int, cross: CrossInput, number: int) -> None:
        is_last = number + 1 == len(cross.views)
        self.ends[slot] = 0 if is_last else cross.views[number + 1].start

    def remaining(self, slots: np.ndarray, computed: np.ndarray, length: np.ndarray) -> np.ndarray:
        """How many tokens [n] of `slots` [n] a step may compute, of `length` [n] in all."""
        if not self._inputs:
            return length - computed
        ends = self.ends[slots]
        return np.where(ends > 0, np.minimum(ends, length), length) - computed

    def advance(self, slots: np.ndarray, computed: np.ndarray, page_size: int) -> list[CrossChange]:
        """The changes of those of `slots` [n] whose next token, number `computed` [n], begins
        another view."""
        changes: list[CrossChange] = []
        if not self._inputs:
            return changes
        for slot in slots[(self.ends[slots] > 0) & (self.ends[slots] == computed)].tolist():
            cross, pages = self._inputs[slot]
            number = cross.view_at(int(self.ends[slot]))
            changes.append(cross.change(slot, number, pages, page_size))
            self._set_end(slot, cross, number)
        return changes
