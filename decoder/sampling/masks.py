"""Additive masks over the vocabulary: suppressed, allowed and biased tokens."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from antiphon.decoder.sampling.settings import checked_ids
from antiphon.layers.shard import Span
from antiphon.runtime.device import to_device

Key = tuple[object, ...]
MASKS_PER_SEQUENCE = 2  # for its first token, and for the later ones


class MaskTable:
    """One row for each distinct mask in use; row 0 adds nothing.

    `rows` is [masks, words] float32, added to the logits of this rank's words. It
    neither grows nor moves, because captured graphs read it at its address. Every slot
    holds two masks at most and gives them up before its next owner takes two, so two
    rows a slot are enough in any order of admissions. Most requests want the masks of
    earlier ones (all requests of a Whisper do), so a row that nobody uses keeps its
    mask until another mask needs the row.

    Memory: 4 bytes * words * (2 * slots + 1), which is 27 MB for Whisper large-v3 at 64
    slots. On a CPU it comes from calloc: a row costs memory once it is written.
    """

    def __init__(
        self, vocab_size: int, max_seqs: int, device: torch.device, words: Span | None = None
    ) -> None:
        """`words`: those of the vocabulary whose logits this rank has; all, if None."""
        self._words = Span.whole(vocab_size) if words is None else words
        shape = (MASKS_PER_SEQUENCE * max_seqs + 1, self._words.count)
        on_host = device.type == "cpu"
        self.rows = (
            torch.from_numpy(np.zeros(shape, np.float32))
            if on_host
            else torch.zeros(shape, device=device)
        )
        self._users = [0] * shape[0]
        self._row_of: dict[Key, int] = {}
        self._key_of: dict[int, Key] = {}
        self._unused = OrderedDict.fromkeys(range(1, shape[0]))  # rows; least recently used first

    def acquire(
        self, suppress: Sequence[int], allowed: Sequence[int] | None, bias: Mapping[int, float]
    ) -> int:
        """The row of the mask that `suppress` and `bias` and `allowed` ids make, for
        one more user.

        Raises TypeError or ValueError for ids or biases of the wrong type, before
        anything has changed; values from callers were checked by SamplingParams.
        """
        if not suppress and not bias and allowed is None:
            return 0
        key = (
            tuple(suppress),
            None if allowed is None else tuple(allowed),
            tuple(sorted(bias.items())),
        )
        row = self._row_of.get(key)
        if row is None:
            row = self._write(key, self._mask(suppress, allowed, bias))
        self._unused.pop(row, None)
        self._users[row] += 1
        return row

    def share(self, row: int) -> int:
        """`row`, whose mask has one user more."""
        if row:
            self._unused.pop(row, None)
            self._users[row] += 1
        return row

    def release(self, row: int) -> None:
        """The mask of `row` has one user less."""
        if row == 0:
            return
        self._users[row] -= 1
        if not self._users[row]:
            self._unused[row] = None

    def _write(self, key: Key, mask: np.ndarray) -> int:
        row = next(iter(self._unused))
        if row in self._key_of:
            del self._row_of[self._key_of.pop(row)]
        self.rows[row] = to_device(mask[self._words.slice], self.rows.device)
        self._row_of[key], self._key_of[row] = row, key
        return row

    def _mask(
        self, suppress: Sequence[int], allowed: Sequence[int] | None, bias: Mapping[int, float]
    ) -> np.ndarray:
        """Of the whole vocabulary."""
        size = self._words.total
        mask = np.zeros(size, np.float32)
        if allowed is not None:
            mask[:] = -np.inf
            mask[checked_ids(allowed, size)] = 0.0
        for token, value in zip(checked_ids(list(bias), size).tolist(), bias.values(), strict=True):
            mask[token] += value
        # Checkpoints list ids for which their model has no logit: nothing to suppress
        # there.
        mask[[token for token in suppress if 0 <= token < size]] = -np.inf
        return mask
