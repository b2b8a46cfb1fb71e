"""Which ways into an arena other processes are told of."""

import sys
from pathlib import Path

import pytest
import torch
from played_nixl import PlayedNixl

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import resolve
from antiphon.kv.arena import StateArena
from antiphon.kv.sharing import share
from antiphon.kv.transports.nixl_handle import NixlHandle
from antiphon.kv.transports.shared_memory import SharedHandle


def arena() -> StateArena:
    return StateArena(4, 3, torch.float32, torch.device("cpu"))


def test_messages_need_no_arena() -> None:
    assert share(arena(), "messages") is None


def test_memory_of_the_node_is_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """NIXL must be asked for."""
    PlayedNixl().install(monkeypatch)
    assert isinstance(share(arena(), "auto"), SharedHandle)


def test_nixl_that_is_asked_for_is_the_only_way(monkeypatch: pytest.MonkeyPatch) -> None:
    PlayedNixl().install(monkeypatch)
    assert isinstance(share(arena(), "nixl"), NixlHandle)


def test_nixl_that_is_missing_is_an_error_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, t5_folder: Path
) -> None:
    monkeypatch.delitem(sys.modules, "nixl", raising=False)
    with pytest.raises(ConfigurationError, match="pip install nixl"):
        share(arena(), "nixl")
    with pytest.raises(ConfigurationError, match="pip install nixl"):
        resolve(str(t5_folder), {"state_transport": "nixl"})
