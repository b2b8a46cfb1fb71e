"""NIXL in one process: agents that write each other's memory when they are asked how far they are.

What the real one does is tried in `unit/kv/test_nixl_processes.py`.
"""

import ctypes
import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from antiphon.kv.transports import nixl


@dataclass
class PlayedNixl:
    """`gone`: agents that nobody reaches. `is_stuck`: writes do not get on. `now`: seconds, as the
    encoder has them."""

    now: float = 100.0
    gone: set[str] = field(default_factory=set)
    is_stuck: bool = False
    agents: "list[Agent]" = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("nixl")
        module.__spec__ = ModuleSpec("nixl", None)
        module.nixl_agent = lambda name, config: Agent(self, name)  # type: ignore[attr-defined]
        module.nixl_agent_config = dict  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "nixl", module)
        monkeypatch.setattr(nixl, "time", SimpleNamespace(monotonic=lambda: self.now))


@dataclass
class Transfer:
    source: np.ndarray
    target: np.ndarray
    peer: str
    is_released: bool = False

    def release(self) -> None:
        self.is_released = True


class Agent:
    def __init__(self, world: PlayedNixl, name: str) -> None:
        self.world, self.name = world, name
        self.peers = set[str]()
        self.registered: list[tuple[int, int]] = []
        world.agents.append(self)

    def register_memory(self, memory: torch.Tensor) -> object:
        self.registered.append((memory.data_ptr(), memory.nbytes))
        return object()

    def get_agent_metadata(self) -> bytes:
        return self.name.encode()

    def add_remote_agent(self, metadata: bytes) -> str:
        self.peers.add(metadata.decode())
        return metadata.decode()

    def remove_remote_agent(self, name: str) -> None:
        self.peers.remove(name)

    def get_xfer_descs(self, runs: np.ndarray, kind: str) -> np.ndarray:
        assert kind == "DRAM"
        assert runs.dtype == np.uint64
        return runs

    def initialize_xfer(
        self, operation: str, source: np.ndarray, target: np.ndarray, peer: str
    ) -> Transfer:
        assert operation == "WRITE"
        self._check(source)
        (other,) = (agent for agent in self.world.agents if agent.name == peer)
        other._check(target)
        return Transfer(source, target, peer)

    def _check(self, runs: np.ndarray) -> None:
        for address, size, _ in runs.tolist():
            assert any(
                first <= address and address + size <= first + length
                for first, length in self.registered
            ), "memory that is not registered"

    def transfer(self, transfer: Transfer) -> str:
        return self.check(transfer)

    def check_xfer_state(self, transfer: Transfer) -> Any:
        if self.check(transfer) == "ERR" or self.world.is_stuck:
            return self.check(transfer)
        for (there, size, _), (here, _, _) in zip(
            transfer.target.tolist(), transfer.source.tolist(), strict=True
        ):
            ctypes.memmove(there, here, size)
        return "DONE"

    def check(self, transfer: Transfer) -> str:
        is_gone = transfer.peer in self.world.gone or transfer.peer not in self.peers
        return "ERR" if is_gone else "PROC"
