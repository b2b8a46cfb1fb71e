"""Hidden states on their way from an encoder to a decoder.

The scheduler sees only keys. `HiddenStates` carries the states: one packed tensor for a whole
encoder batch. Within a process it stays on the device. Between processes it is a message like
others, whose tensor travels as it lies in the host's memory.
`HandoffBuffer` keeps what has arrived at a decoder until its cross KV is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import torch


class HiddenStates(msgspec.Struct, frozen=True, eq=False, array_like=True, tag=True):
    """`packed` [sum of lengths, hidden] holds the states of `keys`, one after the other.

    `ready`: recorded behind their computation, where that may not be done yet. Only states that are
    computed may leave the process.
    """

    keys: tuple[str, ...]
    lengths: tuple[int, ...]
    packed: torch.Tensor
    ready: torch.cuda.Event | None = None

    @property
    def computed(self) -> bool:
        return self.ready is None or self.ready.query()


@dataclass
class _Batch:
    """One encoder batch, and those of its states that are still in the buffer. These are views:
    while one exists, the memory of the whole batch is held."""

    packed: torch.Tensor
    left: dict[str, torch.Tensor]

    @property
    def mostly_gone(self) -> bool:
        return 2 * sum(len(states) for states in self.left.values()) < len(self.packed)

    def shrink(self) -> None:
        """Copies what is left. Each copy is less than half of the last one, so all copies together
        move less than the batch; none is made if all keys are popped at once."""
        self.packed = torch.cat(list(self.left.values()))
        views = self.packed.split([len(states) for states in self.left.values()])
        self.left = dict(zip(self.left, views, strict=True))


class HandoffBuffer:
    """Hidden states that have arrived at a decoder, by key, until `pop` removes them. Holds at most
    twice the memory of the states in it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._batches: dict[str, _Batch] = {}  # by key

    def put(self, states: HiddenStates) -> None:
        """Adds hidden states, and makes the current stream wait for their computation.

        States of a key that is in the buffer already (a message that came twice) replace the old.
        """
        if states.ready is not None and self.device.type == "cuda":
            torch.cuda.current_stream(self.device).wait_event(states.ready)
        hidden = states.packed.to(self.device)
        batch = _Batch(
            hidden, dict(zip(states.keys, hidden.split(list(states.lengths)), strict=True))
        )
        for key in states.keys:
            self.drop(key)
        self._batches.update(dict.fromkeys(states.keys, batch))

    def pop(self, keys: Sequence[str]) -> torch.Tensor:
        """Removes the states of `keys`. Returns them packed in that order, [tokens, hidden]."""
        batches = [self._batches.pop(key) for key in keys]
        popped = [batch.left.pop(key) for batch, key in zip(batches, keys, strict=True)]
        for states in popped:
            self._record_use(states)
        packed = torch.cat(popped)
        for batch in {id(batch): batch for batch in batches}.values():
            self._shrink(batch)
        return packed

    def get(self, key: str) -> torch.Tensor:
        """The states of `key` [tokens, hidden], which stay here."""
        states = self._batches[key].left[key]
        self._record_use(states)
        return states

    def drop(self, key: str) -> None:
        """Removes the states of a key that no request waits for any more, if they are here."""
        batch = self._batches.pop(key, None)
        if batch is not None:
            del batch.left[key]
            self._shrink(batch)

    def _shrink(self, batch: _Batch) -> None:
        if batch.left and batch.mostly_gone:
            self._record_use(batch.packed)
            batch.shrink()

    def _record_use(self, states: torch.Tensor) -> None:
        """Keeps their memory, which an encoder's stream may have allocated, until the current
        stream has read it."""
        if self.device.type == "cuda":
            states.record_stream(torch.cuda.current_stream(self.device))

    def __len__(self) -> int:
        return len(self._batches)
