"""What step plans and their results say of beam searches, where these travel: see `beams.py`."""

from collections.abc import Sequence

import msgspec
import numpy as np
from msgspec import field


def _none() -> np.ndarray:
    return np.empty(0, np.int32)


class BeamMoves(msgspec.Struct, frozen=True):
    """How the sequences of beam searches go on, which the host has chosen: the one in `slots[i]`
    does so behind those tokens that `sources[i]` had before, with `tokens[i]` at `positions[i]`
    in place of what the device has put there. `self_pages[i]` are its pages from now on; what
    the last one holds is among the plan's `page_copies`."""

    slots: np.ndarray = field(default_factory=_none)  # [n]
    ids: np.ndarray = field(default_factory=_none)  # [n] orders of arrival of their requests
    sources: np.ndarray = field(default_factory=_none)  # [n]
    positions: np.ndarray = field(default_factory=_none)  # [n]
    tokens: np.ndarray = field(default_factory=_none)  # [n]
    # [n, pages] int32; behind a sequence's last one there may be any
    self_pages: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.int32))

    def __len__(self) -> int:
        return len(self.slots)

    @classmethod
    def joined(cls, moves: Sequence["BeamMoves"]) -> "BeamMoves":
        """Of several searches."""
        if len(moves) < 2:
            return moves[0] if moves else NO_MOVES

        def of_all(name: str) -> np.ndarray:
            return np.concatenate([getattr(one, name) for one in moves])

        width = max(one.self_pages.shape[1] for one in moves)
        pages = np.zeros((sum(map(len, moves)), width), np.int32)
        first = 0
        for one in moves:
            pages[first : first + len(one), : one.self_pages.shape[1]] = one.self_pages
            first += len(one)
        names = ("slots", "ids", "sources", "positions", "tokens")
        slots, ids, sources, positions, tokens = map(of_all, names)
        return cls(slots, ids, sources, positions, tokens, pages)


NO_MOVES = BeamMoves()


class BeamCandidates(msgspec.Struct, frozen=True):
    """The tokens that the rows of beam searches may go on with, likeliest first: natural
    logarithms of probabilities.

    `ranks` are known where any row asks for log-probabilities.
    """

    rows: np.ndarray  # [asking] indices into the step's sequences, ascending
    ids: np.ndarray  # [asking, k]
    scores: np.ndarray  # [asking, k] under the rules; minus infinity: the token is barred
    logprobs: np.ndarray  # [asking, k] under the raw logits
    ranks: np.ndarray  # [asking, k] from 1 among the raw logits, or [asking, 0]
