"""What the scheduler hands to a decoder for one step, and what it gets back. Plain
arrays, which can cross processes as they are.

Some of these are made in every step: structs of msgspec, whose constructors are C.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from msgspec import field
from msgspec.structs import replace

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.beam_plan import NO_MOVES, BeamCandidates, BeamMoves
from antiphon.scheduler.cross_views import CrossChange, CrossSource, Sees
from antiphon.scheduler.generated import TokenLogprobs
from antiphon.scheduler.grids import PlacedGrid, grids_of
from antiphon.scheduler.request import Request


def _none() -> np.ndarray:
    return np.empty(0, np.int32)


class Admission(msgspec.Struct, frozen=True):
    """A sequence that takes a slot: everything that the device must know of it from now on."""

    slot: int
    token_ids: np.ndarray  # [tokens] prompt, and what was generated before a preemption
    prompt_len: int  # for rules: without what begins the text
    max_len: int
    seed: int
    params: SamplingParams
    rules: DecodingRules
    self_pages: np.ndarray = field(default_factory=_none)  # [pages] int32
    cross_pages: np.ndarray = field(default_factory=_none)
    cross_len: int = 1  # encoder tokens that its first tokens attend to
    grids: tuple[PlacedGrid, ...] = ()  # of the inputs in its prompt, see `GridPositions`
    sees: int = Sees.LATEST  # what its first tokens do

    @classmethod
    def of(
        cls,
        request: Request,
        token_ids: np.ndarray,
        self_pages: np.ndarray,
        cross: CrossChange,
    ) -> "Admission":
        """Of `request`, which has a slot, with its `token_ids` [tokens] so far."""
        return cls(
            request.slot, token_ids, len(request.prompt_token_ids) - request.begun, request.max_len,
            request.seed, request.params, request.rules, self_pages, cross.pages, cross.length,
            grids_of(request), cross.sees,
        )  # fmt: skip

    def seeing(self, cross: CrossChange) -> "Admission":
        """The same with `cross` for its first tokens."""
        return replace(self, cross_pages=cross.pages, cross_len=cross.length, sees=cross.sees)


class CrossWrite(msgspec.Struct, frozen=True):
    """Cross KV under `key` that this step writes, from the hidden states of `key`."""

    key: str
    num_tokens: int  # of the encoder
    pages: np.ndarray  # [pages] int32
    sources: tuple[CrossSource, ...] = ()  # where these are of several inputs

    @property
    def keys(self) -> list[str]:
        """Of the hidden states."""
        return [source.key for source in self.sources] or [self.key]


class Fork(msgspec.Struct, frozen=True):
    """A sequence that takes a slot and goes on as the one in slot `source` does, with
    the same settings but for its seed and length. It shares the other's full pages;
    what the last one holds is among the plan's `page_copies`."""

    source: int
    slot: int
    id: int  # order of arrival of its request
    token_ids: np.ndarray  # [tokens] so far
    max_len: int
    seed: int
    stop_ids: tuple[int, ...]
    self_pages: np.ndarray  # [pages] int32
    cross_pages: np.ndarray  # [pages] int32
    cross_len: int
    sees: int = Sees.LATEST


class NewPages(msgspec.Struct, frozen=True):
    """Pages that running sequences grow by: `pages[i]` belongs into column `columns[i]`
    of the self pages of `slots[i]`. One at most for each row of a step, and for no
    other slot."""

    slots: np.ndarray = field(default_factory=_none)  # [n]
    columns: np.ndarray = field(default_factory=_none)  # [n]
    pages: np.ndarray = field(default_factory=_none)  # [n] int32

    def of(self, slots: np.ndarray) -> "NewPages":
        """Those of `slots`."""
        chosen = np.isin(self.slots, slots)
        return NewPages(self.slots[chosen], self.columns[chosen], self.pages[chosen])


NO_NEW_PAGES = NewPages()


class Embedding(msgspec.Struct, frozen=True):
    """Hidden states that take the place of a step's tokens before the first layer:
    `count` rows of the states of `key`, from row `first`, in place of tokens from
    number `token` of the step."""

    key: str
    first: int
    token: int
    count: int


class Readouts(msgspec.Struct, frozen=True):
    """Log-probabilities of given tokens behind given ones, that a step computes by the way."""

    rows: np.ndarray = field(default_factory=_none)  # [n] of the plan
    queries: np.ndarray = field(default_factory=_none)  # [n] tokens of the step, packed
    token_ids: np.ndarray = field(default_factory=_none)  # [n]
    indices: np.ndarray = field(default_factory=_none)  # [n] among the request's readouts

    def __len__(self) -> int:
        return len(self.rows)


NO_READOUTS = Readouts()


class PlannedDrafts(msgspec.Struct, frozen=True):
    """Tokens that rows compute behind those that they know, and sample at each of them: a row
    with `counts` drafts has as many queries more, and samples once more than that.

    `tokens`: where the host knows them. Else the draft model makes them before the step, which
    computes `lags` tokens for it first: those known that it has not seen yet.
    """

    counts: np.ndarray  # [rows] at least 0
    most: int  # of a row
    tokens: np.ndarray | None  # [rows, at least `most`]
    lags: np.ndarray  # [rows]

    def in_order(self, order: np.ndarray) -> "PlannedDrafts":
        """Of rows that are in another `order` [rows]."""
        tokens = None if self.tokens is None else self.tokens[order]
        return PlannedDrafts(self.counts[order], self.most, tokens, self.lags[order])


class StepPlan(msgspec.Struct, frozen=True):
    """One step: a forward of the decoder, in which every row computes `query_lens` of
    its tokens, which then has `kv_lens`. Rows that have computed all that they know
    sample the next one. Page tables stay on the device: a plan says only what changes
    in them. Its parts are carried out in this order, before any row is computed:
    `page_copies`, `beam_moves`, `forks`, `admissions`, `cross_changes`, `cross_writes`.

    Rows are ordered: those with one query first.
    """

    admissions: list[Admission]
    cross_writes: list[CrossWrite]
    slots: np.ndarray  # [rows] of the batch
    # [rows] the requests' order of arrival: a slot may change hands before the result comes
    ids: np.ndarray
    query_lens: np.ndarray  # [rows] at least 1
    kv_lens: np.ndarray  # [rows] once this step's keys are written
    samples: np.ndarray  # [rows] bool
    new_pages: NewPages = NO_NEW_PAGES
    # Target page -> source page, as it was before this step.
    page_copies: Mapping[int, int] = field(default_factory=dict)
    forks: Sequence[Fork] = ()
    number: int = 0  # from 1, in the order that a scheduler planned them
    readouts: Readouts = NO_READOUTS
    embeddings: Sequence[Embedding] = ()
    spent: Sequence[str] = ()  # keys of embeddings that no later step needs
    lane: int = 0  # that all of its rows belong to; what it admits as well
    beam_moves: BeamMoves = NO_MOVES
    cross_changes: Sequence[CrossChange] = ()
    drafts: PlannedDrafts | None = None  # which `query_lens` and `kv_lens` count

    @property
    def known_lens(self) -> np.ndarray:
        """[rows] as `kv_lens`, without drafts."""
        return self.kv_lens if self.drafts is None else self.kv_lens - self.drafts.counts

    @property
    def num_tokens(self) -> int:
        return int(self.query_lens.sum())


class TopLogprobs(msgspec.Struct, frozen=True):
    """The likeliest or the named tokens, for the samples of a step that ask: natural
    logarithms of probabilities under the raw logits."""

    rows: np.ndarray  # [asking] indices into the step's samples, ascending
    ids: np.ndarray  # [asking, k]
    logprobs: np.ndarray  # [asking, k]

    def of_row(self, row: int, count: int) -> tuple[list[int], list[float]]:
        """Ids and log-probabilities of the first `count` of `row`; none if it did not ask."""
        index = int(np.searchsorted(self.rows, row))
        if index == len(self.rows) or self.rows[index] != row:
            return [], []
        return self.ids[index, :count].tolist(), self.logprobs[index, :count].tolist()


class StepResult(msgspec.Struct, frozen=True):
    """What a step sampled, in the order of the plan's rows: `per_row` samples each, of which
    those that count are the first `accepted` and the one behind them.

    `logprobs` and `restricted_logprobs`: natural logarithms of the probability of each
    token, under the raw logits and under those that the rules have changed. None:
    nobody asked the model.
    """

    tokens: np.ndarray  # [samples] int64; of a row that does not sample, any number
    logprobs: np.ndarray | None = None  # [samples] float32
    restricted_logprobs: np.ndarray | None = None  # [samples] float32
    ranks: np.ndarray | None = None  # [samples] from 1, for the rows that ask; else 0
    top: TopLogprobs | None = None
    # Of the plan's readouts, [n] each: log-probabilities, and the likeliest tokens.
    readouts: tuple[np.ndarray, np.ndarray] | None = None
    beams: BeamCandidates | None = None
    per_row: int = 1
    accepted: np.ndarray | None = None  # [rows] drafts that hold; None: nothing was drafted

    def of_token(self, sample: int, count: int) -> TokenLogprobs:
        """Log-probabilities of the token of a sample, and of the `count` likeliest ones."""
        assert self.logprobs is not None
        assert self.ranks is not None
        ids, logprobs = ([], []) if self.top is None else self.top.of_row(sample, count)
        return TokenLogprobs(
            ids=[int(self.tokens[sample]), *ids],
            logprobs=[float(self.logprobs[sample]), *logprobs],
            ranks=[int(self.ranks[sample]), *range(1, len(ids) + 1)],
        )
