"""To a decoder in another process, by NIXL (https://github.com/ai-dynamo/nixl): the encoder writes
rows of the decoder's arena through UCX, over RDMA where both machines have it.

    decoder                          encoder
    registers its arena, asks: rows  -> learns of the arena, the first time
                                        encodes; copies the states into registered memory behind
                                        that, on the same stream; then posts the write
    takes the rows as they are       <- once they are written: keys and tickets, a few bytes

A write is posted by the host once the states are computed, and is over some time later: unlike
one of `mapped.py`, it is not ordered by the device's stream.
"""

import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from antiphon.config.errors import describe
from antiphon.kv.handoff import HiddenStates, Place
from antiphon.kv.transports.interface import Sent, Transport
from antiphon.kv.transports.mapped import Announce, ArenaExport, runs_of
from antiphon.kv.transports.mapping import MappingError
from antiphon.kv.transports.nixl_handle import NixlHandle

WRITE_SECONDS = 30.0  # a write that takes longer has failed
NAME_BYTES = 8
Failed = Callable[[HiddenStates, str], None]  # states that were not written, and why


class NixlError(MappingError):
    """NIXL is not there, or cannot write to a decoder. Hidden states then go another way."""


def _agent() -> Any:
    """Raises NixlError."""
    try:
        from nixl import nixl_agent, nixl_agent_config
    except ImportError as error:
        raise NixlError(f"NIXL cannot be imported: {error}: pip install nixl") from error
    try:
        config = nixl_agent_config(enable_prog_thread=True, backends=["UCX"])
        return nixl_agent(f"antiphon-{secrets.token_hex(NAME_BYTES)}", config)
    except Exception as error:  # of its bindings, which have types of their own
        raise NixlError(f"NIXL does not start: {describe(error)}") from error


def _descriptors(base: int, row_bytes: int, starts: Any, counts: Any, gpu: int) -> np.ndarray:
    """[runs, 3] uint64: address, bytes and GPU of each run of rows."""
    rows = np.empty((len(starts), 3), np.uint64)
    rows[:, 0] = base + starts.astype(np.uint64) * np.uint64(row_bytes)
    rows[:, 1] = counts.astype(np.uint64) * np.uint64(row_bytes)
    rows[:, 2] = gpu
    return rows


def _gpu(tensor: torch.Tensor) -> int:
    return max(tensor.get_device(), 0)


def _kind(tensor: torch.Tensor) -> str:
    return "VRAM" if tensor.is_cuda else "DRAM"


class NixlTarget:
    """Memory of this process that encoders may write, as long as this lives."""

    def __init__(self, states: torch.Tensor) -> None:
        """`states` must not move. Raises NixlError."""
        self._agent = _agent()
        try:
            self._registered = self._agent.register_memory(states)
            metadata = bytes(self._agent.get_agent_metadata())
        except Exception as error:
            raise NixlError(f"NIXL cannot register the arena: {describe(error)}") from error
        address, kind = states.data_ptr(), _kind(states)
        self.handle = NixlHandle(metadata, address, kind, _gpu(states))


@dataclass(eq=False)  # tensors do not compare as wholes
class _Staged:
    """Registered memory [rows, width] that a write reads."""

    memory: torch.Tensor
    registered: Any


@dataclass
class _Write:
    """Of one batch, to all ranks. `staged`: None where that failed, for `problem`. `transfers`:
    none before it is posted."""

    states: HiddenStates
    places: tuple[Place, ...]
    staged: _Staged | None
    problem: str = ""
    transfers: tuple[Any, ...] = ()
    posted_at: float = 0.0


class Nixl(Transport):
    """To all ranks of one decoder. `announce` tells it which states are written; `failed` takes
    those that could not be."""

    kind = "NIXL"

    def __init__(
        self, export: ArenaExport, device: torch.device, announce: Announce, failed: Failed
    ) -> None:
        """Raises NixlError."""
        self.name, self._device = export.name, device
        self._announce, self._failed = announce, failed
        self._targets, self._width = export.far, export.width
        self._dtype: torch.dtype = getattr(torch, export.dtype)
        self._agent = _agent()
        try:
            metadata = [target.metadata for target in export.far]
            self._peers = [self._agent.add_remote_agent(one) for one in metadata]
        except Exception as error:
            raise NixlError(f"NIXL does not know the decoder: {describe(error)}") from error
        self._queued: deque[_Write] = deque()  # oldest first
        self._free: list[_Staged] = []
        self._lost: list[_Write] = []  # NIXL may still read what was staged for them
        self._open = 0  # writes under way
        self._closing = False

    def queued(self, states: HiddenStates, places: Sequence[Place] = ()) -> None:
        try:
            staged = self._stage(states.packed)
        except Exception as error:  # no memory, or none that may be registered
            self._queued.append(_Write(states, tuple(places), None, describe(error)))
            return
        packed = staged.memory[: len(states.packed)]
        kept = HiddenStates(states.keys, states.lengths, packed)
        self._queued.append(_Write(kept, tuple(places), staged))

    def _stage(self, packed: torch.Tensor) -> _Staged:
        fits = [one for one in self._free if len(one.memory) >= len(packed)]
        if fits:
            staged = min(fits, key=lambda one: len(one.memory))
            self._free.remove(staged)
        else:
            rows = 1 << (len(packed) - 1).bit_length()
            memory = torch.empty(rows, self._width, dtype=self._dtype, device=self._device)
            staged = _Staged(memory, self._agent.register_memory(memory))
        staged.memory[: len(packed)].copy_(packed)
        return staged

    def computed(self) -> Sent:
        write = self._queued.popleft()
        self._open += 1
        if write.staged is None:
            self._end(write, f"no memory that NIXL reads: {write.problem}")
            return None
        try:
            write.transfers = self._post(write, write.staged.memory)
            write.posted_at = time.monotonic()
        except Exception as error:  # of its bindings: the decoder is gone, or cannot be reached
            self._end(write, describe(error))
            return None
        return partial(self._is_sent, write)

    def _post(self, write: _Write, memory: torch.Tensor) -> tuple[Any, ...]:
        """Begins the write of `memory` to each rank."""
        rows = np.concatenate([place.rows for place in write.places])
        starts, counts = runs_of(rows)
        size = self._width * memory.itemsize
        source = _descriptors(memory.data_ptr(), size, starts, counts, _gpu(memory))
        agent, kind = self._agent, _kind(memory)
        local = agent.get_xfer_descs(source, kind)
        transfers = []
        for target, peer in zip(self._targets, self._peers, strict=True):
            there = _descriptors(target.address, size, rows[starts], counts, target.gpu)
            remote = agent.get_xfer_descs(there, target.kind)
            transfers.append(agent.initialize_xfer("WRITE", local, remote, peer))
            if agent.transfer(transfers[-1]) == "ERR":
                raise NixlError("the write could not be posted")
        return tuple(transfers)

    def _is_sent(self, write: _Write) -> bool:
        """Whether it is over, well or not; tells of it then."""
        try:
            states = {self._agent.check_xfer_state(one) for one in write.transfers}
        except Exception as error:
            self._end(write, describe(error))
            return True
        if "ERR" in states:
            self._end(write, "the write failed")
        elif "PROC" not in states:
            self._end(write)
        elif time.monotonic() - write.posted_at > WRITE_SECONDS:
            self._end(write, f"the write took longer than {WRITE_SECONDS:g} s")
        else:
            return False
        return True

    def _end(self, write: _Write, problem: str | None = None) -> None:
        self._open -= 1
        if problem is None:
            for transfer in write.transfers:
                transfer.release()
            if write.staged is not None:
                self._free.append(write.staged)
            self._announce(write.states.keys, tuple(place.ticket for place in write.places))
        else:
            # Nothing new is written then; what was posted may still be, see docs/parallelism.md.
            self._disconnect()
            self._lost.append(write)
            self._failed(write.states, problem)
        self._close_if_idle()

    def close(self) -> None:
        """Its decoder has ended, or cannot be written to."""
        self._closing = True
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._closing and not self._open and not self._queued:
            self._disconnect()

    def _disconnect(self) -> None:
        while self._peers:
            with suppress(Exception):  # of its bindings: one that is gone is disconnected
                self._agent.remove_remote_agent(self._peers.pop())
