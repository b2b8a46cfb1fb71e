"""Which sequences of a beam search end because of their text."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.request import Request


class GrowingText(Protocol):
    """The text of one sequence, up to a stop string. What is added behind that changes nothing."""

    stopped: bool

    def add(self, token_ids: list[int]) -> None: ...

    def copy(self) -> "GrowingText":
        """One that goes on by itself."""
        ...


NewText = Callable[[SamplingParams], GrowingText | None]  # None: it cannot be made yet


def no_texts(params: SamplingParams) -> GrowingText:
    """For a scheduler without a tokenizer."""
    raise ValueError("no tokenizer is here that knows the text of a beam search with stop strings")


def needs_text(request: Request) -> bool:
    """True for a beam search that stop strings may end."""
    return request.rules.beams is not None and bool(request.params.stop)


class BeamTexts:
    """The texts of a search's running sequences, best first. `first`: that of its prompt, empty."""

    def __init__(self, first: GrowingText) -> None:
        self._running = [first]
        self._longer: dict[tuple[int, int], GrowingText] = {}  # by parent and column

    def ends(self, parent: int, column: int, token: int) -> bool:
        """Whether running sequence number `parent` meets a stop string with `token`, its candidate
        number `column`."""
        text = self._longer[parent, column] = self._running[parent].copy()
        text.add([token])
        return text.stopped

    def go_on(self, parents: np.ndarray, columns: np.ndarray) -> None:
        """The running sequences are these [n] from now on, of those that `ends` was asked for."""
        places = zip(parents.tolist(), columns.tolist(), strict=True)
        self._running = [self._longer[place] for place in places]
        self._longer = {}
