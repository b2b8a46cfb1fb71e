"""To a decoder in another process: bytes over the channel that all messages take.

From a GPU they are copied to the host on a stream of their own, right behind their
computation and beside that of the next batch. Copied when they are sent, from pageable
memory, they would hold up the encoder's loop.
"""

from collections import deque
from collections.abc import Callable, Sequence

import torch

from antiphon.kv.handoff import HiddenStates, Place
from antiphon.kv.transports.interface import Sent, Transport

Staged = tuple[HiddenStates, torch.cuda.Event | None]


class Frames(Transport):
    def __init__(self, send: Callable[[HiddenStates], None], device: torch.device) -> None:
        self._send = send
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._staged: deque[Staged] = deque()  # oldest first

    def queued(self, states: HiddenStates, places: Sequence[Place] = ()) -> None:
        if self._copies is None:
            self._staged.append((states, None))
        else:
            self._staged.append(self._on_host(states, self._copies))

    @staticmethod
    def _on_host(states: HiddenStates, copies: torch.cuda.Stream) -> Staged:
        copies.wait_stream(torch.cuda.current_stream(copies.device))
        with torch.cuda.stream(copies):
            packed = torch.empty_like(states.packed, device="cpu", pin_memory=True)
            packed.copy_(states.packed, non_blocking=True)
            states.packed.record_stream(copies)
            copied = torch.cuda.Event()
            copied.record(copies)
        return HiddenStates(states.keys, states.lengths, packed), copied

    def computed(self) -> Sent:
        states, copied = self._staged.popleft()
        if copied is not None:
            copied.synchronize()  # mostly over by now
        self._send(states)
        return None


class Arrivals:
    """Takes hidden states that came in frames to the decoder's device.

    For the thread that receives them: the copy into pinned memory would hold up the
    decoder's loop, as one from pageable memory would. The loop takes them when they are
    there.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def on_device(self, states: HiddenStates) -> HiddenStates:
        """Those that are on it stay as they are."""
        if self._copies is None or states.packed.is_cuda:
            return states
        with torch.cuda.stream(self._copies):
            packed = states.packed.pin_memory().to(self._device, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record(self._copies)
        return HiddenStates(states.keys, states.lengths, packed, ready)
