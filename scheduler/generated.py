"""What a sequence generates, and why it ends."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

FinishReason = Literal["stop", "length"]


class StopReason(IntEnum):
    """Why a sequence ends with a token. Numbers, because a step has an array of them."""

    NONE = 0  # it goes on
    STOP_TOKEN = 1
    LENGTH = 2

    @property
    def finish_reason(self) -> FinishReason:
        """As users see it. Not for NONE."""
        assert self is not StopReason.NONE
        return "stop" if self is StopReason.STOP_TOKEN else "length"


@dataclass(frozen=True)
class TokenLogprobs:
    """Of one generated token: natural logarithms of the model's raw distribution, and
    ranks from 1."""

    ids: list[int]  # the chosen token first, then the likeliest ones
    logprobs: list[float]
    ranks: list[int]


class Readout(NamedTuple):
    """A request's question: how likely the model finds `token_id` behind the token at `position`,
    of those that it knows from the start: its prompt, and what a resumed one generated."""

    position: int
    token_id: int


class ReadoutValue(NamedTuple):
    """The answer, under the raw logits: that probability's natural logarithm, and the
    likeliest token."""

    logprob: float
    likeliest: int


@dataclass
class Hypothesis:
    """One of the sequences that beam search found. Log-probabilities: as `Finished` has them."""

    token_ids: list[int]
    reason: FinishReason
    score: float  # what they are ranked by
    restricted_logprob: float  # the sum, as the search counts them
    token_logprobs: list[float]
    logprobs: list[TokenLogprobs]
