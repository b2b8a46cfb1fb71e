"""NIXL's agents: memory of one process that others write, and the writes of one process to others.

NIXL's bindings raise exceptions of their own types; all that leave this file are NixlErrors.
"""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from antiphon.config.errors import describe
from antiphon.kv.transports.mapped import runs_of
from antiphon.kv.transports.mapping import MappingError
from antiphon.kv.transports.nixl_handle import NixlHandle

NAME_BYTES = 8


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
    except Exception as error:
        raise NixlError(f"NIXL does not start: {describe(error)}") from error


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


class NixlWrites:
    """Of one tensor to several ranks; none before it is posted."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self._transfers: list[Any] = []

    def add(self, transfer: Any) -> None:
        """Posts it. Raises NixlError."""
        self._transfers.append(transfer)
        if self._agent.transfer(transfer) == "ERR":
            raise NixlError("the write could not be posted")

    def states(self) -> set[str]:
        """What NIXL says of them, "PROC" while one is under way, "DONE" and "ERR" afterwards."""
        return {self._state(transfer) for transfer in self._transfers}

    def _state(self, transfer: Any) -> str:
        try:
            state: str = self._agent.check_xfer_state(transfer)
        except Exception:  # its connection is gone
            return "ERR"
        return state

    def release(self) -> None:
        """They are over, and so is NIXL's memory of them."""
        while self._transfers:
            with suppress(Exception):
                self._transfers.pop().release()


class NixlPeers:
    """What writes to all ranks of one decoder."""

    def __init__(self, ranks: Sequence[NixlHandle]) -> None:
        """Raises NixlError."""
        self._ranks, self._agent = ranks, _agent()
        try:
            self._names = [self._agent.add_remote_agent(rank.metadata) for rank in ranks]
        except Exception as error:
            raise NixlError(f"NIXL does not know the decoder: {describe(error)}") from error

    def register(self, memory: torch.Tensor) -> Any:
        """Memory that writes may read, as long as what this returns lives."""
        return self._agent.register_memory(memory)

    def write(self, memory: torch.Tensor, rows: np.ndarray, writes: NixlWrites) -> None:
        """Begins `writes` of the first of `memory` [tokens or more, width], which is registered, to
        `rows` [tokens] of each rank's arena. Raises NixlError; some may be under way then."""
        starts, counts = runs_of(rows)
        size = memory[0].nbytes
        source = _descriptors(memory.data_ptr(), size, starts, counts, _gpu(memory))
        try:
            local = self._agent.get_xfer_descs(source, _kind(memory))
            for rank, name in zip(self._ranks, self._names, strict=True):
                target = _descriptors(rank.address, size, rows[starts], counts, rank.gpu)
                remote = self._agent.get_xfer_descs(target, rank.kind)
                writes.add(self._agent.initialize_xfer("WRITE", local, remote, name))
        except NixlError:
            raise
        except Exception as error:  # the decoder is gone, or cannot be reached
            raise NixlError(describe(error)) from error

    def writes(self) -> NixlWrites:
        return NixlWrites(self._agent)

    def disconnect(self) -> None:
        """No write may be under way: of one that is, NIXL would not tell its end any more."""
        while self._names:
            with suppress(Exception):  # one that is gone is disconnected
                self._agent.remove_remote_agent(self._names.pop())


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
