"""One request, its states, and the table of legal transitions between them."""

import math
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.alignment import Alignment
from antiphon.scheduler.cross_views import CrossInput
from antiphon.scheduler.generated import (
    FinishReason,
    Hypothesis,
    Readout,
    ReadoutValue,
    TokenLogprobs,
)


class RequestId(NamedTuple):
    """A request among those of all frontends that share the workers."""

    frontend: str  # the name of the engine that sent it, and that gets its outputs
    number: int  # among the requests of its frontend

    def __str__(self) -> str:
        return f"{self.frontend}/{self.number}"


class Incarnation(NamedTuple):
    """One life of a worker: a worker that was restarted has the same name and a higher epoch."""

    name: str  # such as "decoder-0"
    epoch: int

    def __str__(self) -> str:
        return f"{self.name} (epoch {self.epoch})"


class RequestState(StrEnum):
    """Where a request is on its way. `Scheduler` tells the whole life."""

    WAITING = "waiting"  # its encoder work is not asked for yet
    ENCODING = "encoding"  # an encoder worker has its input
    READY = "ready"  # its hidden states or cross KV are here; it waits for a slot
    RUNNING = "running"  # it has a slot
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REFUSED = "refused"
    TURNED_AWAY = "turned_away"  # refused for now: too many wait

    @property
    def final(self) -> bool:
        return not TRANSITIONS[self]


_S = RequestState
_ENDED = {_S.DONE, _S.FAILED, _S.CANCELLED, _S.EXPIRED}
TRANSITIONS: dict[RequestState, set[RequestState]] = {
    _S.WAITING: {_S.ENCODING, _S.READY, _S.REFUSED, _S.TURNED_AWAY} | _ENDED,
    # Back to WAITING: the encoder work that it joined had been withdrawn.
    _S.ENCODING: {_S.READY, _S.WAITING} | _ENDED,
    # Back to WAITING: its cross KV was evicted before it was admitted.
    _S.READY: {_S.RUNNING, _S.WAITING} | _ENDED,
    # Back to READY: preempted.
    _S.RUNNING: {_S.READY} | _ENDED,
    **{state: set() for state in (*_ENDED, _S.REFUSED, _S.TURNED_AWAY)},
}


@dataclass(frozen=True)
class Media:
    """The input of an encoder. Equal keys mean equal content under equal processing."""

    key: str
    kind: Literal["text", "audio", "image"]
    num_tokens: int  # of the encoder's output
    # Token ids or samples, where encoder and decoder are driven by hand; opaque here.
    payload: Any = field(default=None, repr=False, compare=False)
    # Of the first prompt token that its hidden states replace; None: the decoder attends to them.
    position: int | None = None
    # Frames, rows and columns of its hidden states, where positions are counted by them, and
    # positions from a frame to the next.
    grid: tuple[int, int, int, float] | None = None
    # Of several that the decoder attends to: the token of the prompt that stands for it, from which
    # on `shown` of its hidden states are seen, see `CrossInput`.
    token: int | None = None
    shown: int = 0
    # Whether others may ask for it again: else its cross KV is the first that is evicted.
    keep: bool = True


@dataclass
class RequestMetrics:
    """Unix times in seconds; None until it happened. On their way from a worker to a frontend,
    whose clocks differ: seconds since the request arrived at the worker."""

    arrived_at: float
    encoded_at: float | None = None  # None where nothing had to be encoded
    admitted_at: float | None = None  # it got a slot, for the first time
    first_token_at: float | None = None
    finished_at: float | None = None
    preemptions: int = 0

    def shifted(self, seconds: float) -> "RequestMetrics":
        """All times later by `seconds`."""
        times = (self.encoded_at, self.admitted_at, self.first_token_at, self.finished_at)
        encoded, admitted, first_token, finished = [
            None if time is None else time + seconds for time in times
        ]
        return RequestMetrics(
            self.arrived_at + seconds, encoded, admitted, first_token, finished, self.preemptions
        )


class Trial(IntEnum):
    """Until when a request is on trial, because workers died that had it (see `Suspects`)."""

    NONE = 0
    FIRST_TOKEN = 1
    END = 2


@dataclass(eq=False)
class Request:
    """One sequence to decode. n samples are n requests that share their inputs by key."""

    # Set by the engine.
    id: RequestId
    prompt_token_ids: np.ndarray  # [tokens] int64, the decoder's prompt
    inputs: tuple[Media, ...]  # of encoders; those without a position are attended to
    params: SamplingParams
    rules: DecodingRules
    max_tokens: int  # resolved: never None
    seed: int
    streams: bool = False  # its tokens are sent as they come, not only at its end
    waits_for_host: bool = False  # each of its tokens must be known here before the next is begun
    readouts: tuple[Readout, ...] = ()
    alignment: Alignment | None = None
    priority: int = 0  # lower runs first
    timeout: float | None = None  # seconds from its arrival here: machines' clocks differ
    encoder: str = ""  # name of the one that its inputs were sent to; the decoder may ask another
    caller: int = 0  # one of its frontend's; callers share a decoder fairly
    trial: Trial = Trial.NONE
    attempt: int = 0  # how often it was sent before, each time under another id
    lookup_ids: np.ndarray | None = None  # [tokens] of its input, where drafts are looked up
    begun: int = 0  # last tokens of its prompt that rules take for generated: its text's beginning

    # Set by the scheduler.
    state: RequestState = RequestState.WAITING
    order: int = -1  # of arrival here, among the requests of all frontends
    deadline: float = math.inf  # seconds of the scheduler's own clock
    inputs_gone: int = 0  # times that no frontend held its input any more
    slot: int = -1  # row of the batch while running
    # Kept here only while it is not running. Of a resumed request, set by the engine.
    generated: list[int] = field(default_factory=list)
    token_logprobs: list[float] = field(default_factory=list)  # of `generated`
    restricted_logprob: float = 0.0  # sum over `generated`, under the rules
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    readout_values: dict[int, ReadoutValue] = field(default_factory=dict)  # by index in `readouts`
    hypotheses: list[Hypothesis] = field(default_factory=list)  # of a beam search that is over
    metrics: RequestMetrics = field(default_factory=lambda: RequestMetrics(0.0))

    def move(self, state: RequestState) -> None:
        """To `state`, which must be a legal next one."""
        assert state in TRANSITIONS[self.state], (
            f"request {self.id}: {self.state.value} -> {state.value}"
        )
        self.state = state

    def forget_tokens(self) -> None:
        """Those that it has generated."""
        self.generated, self.token_logprobs, self.logprobs = [], [], []

    @property
    def num_slots(self) -> int:
        """That it takes while it runs."""
        return self.rules.beams.size if self.rules.beams else 1

    @property
    def sort_key(self) -> tuple[int, int]:
        """Smallest first: lower priority number, then earlier arrival."""
        return self.priority, self.order

    @cached_property
    def cross(self) -> CrossInput | None:
        """What the decoder attends to, if there is any."""
        return CrossInput.of([media for media in self.inputs if media.position is None])

    @cached_property
    def placed(self) -> list[Media]:
        """The inputs that stand in its prompt."""
        return [media for media in self.inputs if media.position is not None]

    @property
    def encoder_tokens(self) -> int:
        """Of all its inputs."""
        return sum([media.num_tokens for media in self.inputs])

    @property
    def load(self) -> int:
        """On its workers, for routing: encoder tokens, or those of its prompt without inputs."""
        return self.encoder_tokens or len(self.prompt_token_ids)

    @property
    def cost(self) -> int:
        """What its caller pays for it: its tokens, as many as there may be, of all its slots."""
        return self.encoder_tokens + self.num_slots * self.max_len

    @property
    def inputs_end(self) -> int:
        """Prompt tokens up to the last one that an input replaces; 0 without such inputs."""
        return max(
            [media.position + media.num_tokens for media in self.placed],  # type: ignore[operator]
            default=0,
        )

    @property
    def cross_len(self) -> int:
        """Encoder tokens that one of its tokens attends to, at most."""
        return 0 if self.cross is None else self.cross.longest

    def cross_pages(self, page_size: int) -> int:
        """Pages of its cross KV."""
        return 0 if self.cross is None else self.cross.num_pages(page_size)

    @property
    def length(self) -> int:
        """Tokens so far, prompt included; only while it is not running."""
        return len(self.prompt_token_ids) + len(self.generated)

    @property
    def token_ids(self) -> np.ndarray:
        """[tokens] so far, prompt included; only while it is not running."""
        if not self.generated:
            return np.asarray(self.prompt_token_ids, np.int64)
        return np.concatenate([self.prompt_token_ids, np.array(self.generated, np.int64)])

    @property
    def max_len(self) -> int:
        """Tokens that it ends with at the latest, prompt included."""
        return len(self.prompt_token_ids) + self.max_tokens


@dataclass
class Finished:
    """The end of a request; sent exactly once. `number`: of the request, among those of its
    frontend. `reason` is set when it is DONE, `error` otherwise. `metrics`: since its arrival.

    `token_logprobs`: natural logarithms of the tokens' probabilities under the raw logits.
    `restricted_logprob`: their sum under the logits that the rules have changed. `readout_values`:
    by index in the request's readouts, of those it came to. `frames`: the answer to its
    `alignment`, NO_FRAME for timestamps. Of a beam search it is what was best, with its `score`;
    `others` come behind it.
    """

    number: int
    state: RequestState
    token_ids: list[int]
    reason: FinishReason | None
    error: str | None
    logprobs: list[TokenLogprobs]
    metrics: RequestMetrics
    token_logprobs: list[float] = field(default_factory=list)
    restricted_logprob: float = 0.0
    readout_values: dict[int, ReadoutValue] = field(default_factory=dict)
    frames: list[int] | None = None
    score: float | None = None
    others: list[Hypothesis] = field(default_factory=list)

    @classmethod
    def of(cls, request: Request, reason: FinishReason | None, error: str | None) -> "Finished":
        """The end of `request`, which is in its final state and no longer in the batch."""
        metrics = request.metrics.shifted(-request.metrics.arrived_at)  # no clocks on the wire
        finished = cls(
            request.id.number, request.state, request.generated, reason, error, request.logprobs,
            metrics, request.token_logprobs, request.restricted_logprob, request.readout_values,
        )  # fmt: skip
        if request.hypotheses and request.state is RequestState.DONE:
            best, *others = request.hypotheses
            return replace(finished.as_found(best), others=others)
        return finished

    def as_found(self, one: Hypothesis) -> "Finished":
        """With the tokens of `one`."""
        return replace(
            self, token_ids=one.token_ids, reason=one.reason, logprobs=one.logprobs,
            token_logprobs=one.token_logprobs, restricted_logprob=one.restricted_logprob,
            score=one.score, others=[],
        )  # fmt: skip

    def results(self) -> "list[Finished]":
        """All that its beam search returns, best first; without one, this alone."""
        return [self, *map(self.as_found, self.others)]
