"""Hidden states on their way from an encoder to a decoder.

The scheduler sees only keys. `HiddenStates` is what travels: one packed array for a whole encoder batch, so that Ray's
object store carries it as one buffer (numpy, because pickling a torch tensor copies it). `HandoffBuffer` is where a
decoder keeps what has arrived until its cross KV is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class HiddenStates:
    """`packed` [sum of lengths, hidden] holds the states of `keys`, one after the other; `dtype` is torch's."""

    keys: tuple[str, ...]
    lengths: tuple[int, ...]
    packed: np.ndarray
    dtype: torch.dtype

    @classmethod
    def pack(cls, keys: Sequence[str], lengths: Sequence[int], hidden: torch.Tensor) -> "HiddenStates":
        host = hidden.detach().to("cpu").contiguous()
        carried = host.view(torch.int16) if hidden.dtype == torch.bfloat16 else host  # numpy has no bfloat16
        return cls(tuple(keys), tuple(lengths), carried.numpy(), hidden.dtype)

    def unpack(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Key -> [tokens, hidden] on `device`."""
        # The object store's buffers are read-only, which torch.from_numpy warns about: copy those.
        array = self.packed if self.packed.flags.writeable else self.packed.copy()
        hidden = torch.from_numpy(array).view(self.dtype).to(device)
        return dict(zip(self.keys, hidden.split(list(self.lengths)), strict=True))


class HandoffBuffer:
    """Hidden states that have arrived at a decoder, by key, until `take` removes them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._arrived: dict[str, torch.Tensor] = {}

    def put(self, states: HiddenStates) -> None:
        self._arrived.update(states.unpack(self.device))

    def take(self, keys: Sequence[str]) -> torch.Tensor:
        """[tokens, hidden] of `keys`, packed in that order; they leave the buffer."""
        return torch.cat([self._arrived.pop(key) for key in keys])

    def drop(self, key: str) -> None:
        """For a key that nobody waits for any more."""
        self._arrived.pop(key, None)

    def __len__(self) -> int:
        return len(self._arrived)
