"""Hidden states on their way from an encoder to a decoder.

`HiddenStates` carries them: one packed tensor for a whole encoder batch. Within a
process it stays on the device. Between processes it is a message like others, whose
tensor travels as it lies in the host's memory. At the decoder they are copied into its
arena (`kv/arena.py`); or an encoder that has mapped the arena writes them there itself,
at the `Place` that it was asked for.
"""

from collections.abc import Callable

import msgspec
import numpy as np
import torch


class Place(msgspec.Struct, frozen=True, eq=False, array_like=True):
    """Where in the arena of this name the states of one key belong. `rows` [tokens]
    int64. `ticket`: of the reservation (`kv/arena_rows.py`)."""

    arena: str
    ticket: int
    rows: np.ndarray


class HiddenStates(msgspec.Struct, frozen=True, eq=False, array_like=True, tag=True):
    """`packed` [sum of lengths, hidden] holds the states of `keys`, one after the other.

    `ready`: recorded behind their computation, where that may not be done yet. Only
    states that are computed may leave the process.
    """

    keys: tuple[str, ...]
    lengths: tuple[int, ...]
    packed: torch.Tensor
    ready: torch.cuda.Event | None = None

    @property
    def computed(self) -> bool:
        return self.ready is None or self.ready.query()

    def only(self, is_wanted: Callable[[str], bool]) -> "HiddenStates":
        """Those whose keys are wanted."""
        wanted = [is_wanted(key) for key in self.keys]
        if all(wanted):
            return self
        kept = [row for row, wants in enumerate(wanted) if wants]
        parts = self.packed.split(list(self.lengths))
        return HiddenStates(
            tuple(self.keys[row] for row in kept),
            tuple(self.lengths[row] for row in kept),
            torch.cat([self.packed[:0], *(parts[row] for row in kept)]),
            self.ready,
        )
