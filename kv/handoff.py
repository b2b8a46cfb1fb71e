"""Hidden states on their way from an encoder to a decoder.

The scheduler sees only keys. `HiddenStates` is what travels: one packed tensor for a whole encoder batch. Within a process it goes as
it is, on the device; between processes as numpy, so that Ray's object store carries it as one buffer (pickling a torch tensor copies
it). `HandoffBuffer` is where a decoder keeps what has arrived until its cross KV is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

Wire = tuple[tuple[str, ...], tuple[int, ...], np.ndarray, torch.dtype]


@dataclass(frozen=True)
class HiddenStates:
    """`packed` [sum of lengths, hidden] holds the states of `keys`, one after the other."""

    keys: tuple[str, ...]
    lengths: tuple[int, ...]
    packed: torch.Tensor
    ready: torch.cuda.Event | None = None  # of states that may still be computed, in this process

    @property
    def computed(self) -> bool:
        return self.ready is None or self.ready.query()

    def to_wire(self) -> Wire:
        host = self.packed.detach().to("cpu").contiguous()
        carried = host.view(torch.int16) if host.dtype == torch.bfloat16 else host  # numpy has no bfloat16
        return self.keys, self.lengths, carried.numpy(), host.dtype

    @classmethod
    def from_wire(cls, keys: tuple[str, ...], lengths: tuple[int, ...], array: np.ndarray, dtype: torch.dtype) -> "HiddenStates":
        # The object store's buffers are read-only, which torch.from_numpy warns about: copy those.
        return cls(keys, lengths, torch.from_numpy(array if array.flags.writeable else array.copy()).view(dtype))


class HandoffBuffer:
    """Hidden states that have arrived at a decoder, by key, until `take` removes them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._arrived: dict[str, torch.Tensor] = {}

    def put(self, states: HiddenStates) -> None:
        """What this thread queues on the device from now on comes behind their computation."""
        if states.ready is not None and self.device.type == "cuda":
            torch.cuda.current_stream(self.device).wait_event(states.ready)
        hidden = states.packed.to(self.device)
        self._arrived.update(zip(states.keys, hidden.split(list(states.lengths)), strict=True))

    def take(self, keys: Sequence[str]) -> torch.Tensor:
        """[tokens, hidden] of `keys`, packed in that order; they leave the buffer."""
        taken = [self._arrived.pop(key) for key in keys]
        if self.device.type == "cuda":
            for each in taken:  # an encoder's stream may have made it: its memory must not be reused before this one has read it
                each.record_stream(torch.cuda.current_stream(self.device))
        return torch.cat(taken)

    def drop(self, key: str) -> None:
        """For a key that nobody waits for any more."""
        self._arrived.pop(key, None)

    def __len__(self) -> int:
        return len(self._arrived)
