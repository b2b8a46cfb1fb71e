"""Checkpoints that several tests share."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

M = TypeVar("M")


def made_once(
    make: Callable[[str, Path], M], folders: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, M]]:
    """By name, the folder of a checkpoint and what `make` returns, which is called the first time
    alone."""
    made: dict[str, tuple[Path, M]] = {}

    def get(name: str) -> tuple[Path, M]:
        if name not in made:
            folder = folders.mktemp(name)
            made[name] = folder, make(name, folder)
        return made[name]

    return get
