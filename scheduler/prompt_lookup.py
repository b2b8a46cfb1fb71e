"""Drafts without a model: what followed the last tokens where they stood before, in the input or
in what was written (Saxena 2023, "Prompt Lookup Decoding").
"""

from dataclasses import dataclass

import numpy as np

NOTHING = -1  # stands for no token


@dataclass(frozen=True)
class LookupSizes:
    """How many of the last tokens must agree: as many as possible, up to `longest`."""

    shortest: int
    longest: int

    def look_up(
        self, texts: np.ndarray, lengths: np.ndarray, tails: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What follows the last tokens where they stand first in `texts` [rows, columns], which
        have NOTHING between their parts and behind them.

        `tails` [rows, longest]: the last tokens of each sequence, which has `lengths` [rows].
        Returns up to `count` tokens, [rows, count], and how many there are, [rows].
        """
        rows, columns = texts.shape
        place = np.zeros(rows, np.int64)  # of the first token to draft; 0: none
        follows = texts != NOTHING
        for size in range(1, min(self.longest, columns - 1) + 1):
            agrees = texts[:, : columns - size] == tails[:, -size, None]
            follows[:, size:] &= agrees
            follows[:, :size] = False
            if size < self.shortest:
                continue
            matches = follows.any(1) & (lengths >= size)
            place[matches] = follows[matches].argmax(1)
        places = place[:, None] + np.arange(count)
        drafts = np.take_along_axis(texts, np.minimum(places, columns - 1), axis=1)
        is_token = (drafts != NOTHING) & (places < columns) & (place > 0)[:, None]
        counts = np.where(is_token.all(1), count, is_token.argmin(1))
        return drafts, counts
