"""At which encoder tokens a sequence's own tokens begin: what is asked, and what ranks compute."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from antiphon.config.decoding_rules import DecodingRules

NO_FRAME = -1  # of a token that is not aligned: a timestamp


class Alignment(NamedTuple):
    """A request's question, answered at its end for each of its tokens from number `first` on.

    `start`: number of the token that Whisper's own prompt begins with; earlier text may stand
    before it. `frames`: the first encoder tokens, those of the sound; behind them is padding.
    """

    start: int
    first: int
    frames: int


@dataclass(frozen=True, eq=False)
class AlignedSequence:
    """What ranks need of a sequence that has ended, whose pages no step has overwritten yet.

    `positions` [rows] of the tokens whose queries count: each speaks for the token behind it. The
    first `lead` of them are of the prompt, and only show what is usual.
    """

    slot: int
    positions: np.ndarray
    lead: int
    frames: int


def aligned_sequence(
    slot: int, token_ids: np.ndarray, alignment: Alignment, rules: DecodingRules
) -> AlignedSequence:
    """Of the sequence in `slot` with all its `token_ids` [tokens]."""
    lead = np.arange(alignment.start, alignment.first - 1)
    rows = np.flatnonzero(are_aligned(token_ids[alignment.first :], rules))
    positions = np.concatenate([lead, rows + alignment.first - 1])
    return AlignedSequence(slot, positions, len(lead), alignment.frames)


def are_aligned(token_ids: np.ndarray, rules: DecodingRules) -> np.ndarray:
    """Which of `token_ids` [tokens] are said: all but timestamps. Bool [tokens]."""
    if rules.timestamps is None:
        return np.ones(len(token_ids), bool)
    said: np.ndarray = ~rules.timestamps.holds(token_ids)
    return said


def frames_of_all(token_ids: np.ndarray, rules: DecodingRules, frames: np.ndarray) -> list[int]:
    """`frames` of those of `token_ids` [tokens] that are aligned, and NO_FRAME of the others."""
    every = np.full(len(token_ids), NO_FRAME)
    every[are_aligned(token_ids, rules)] = frames
    numbers: list[int] = every.tolist()
    return numbers
