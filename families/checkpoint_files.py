"""What the files of a checkpoint folder say, in transformers' form: its configuration and its
generation settings. Every function raises CheckpointError for a file that can't be read."""

from pathlib import Path
from typing import Any

from antiphon.families.ctranslate2 import CTranslate2Model, is_ctranslate2
from antiphon.families.json_files import read_object


def stated_config(folder: Path) -> dict[str, Any]:
    """config.json, in transformers' form."""
    if is_ctranslate2(folder):
        return CTranslate2Model(folder).config()
    return read_object(folder / "config.json")


def own_generation(folder: Path) -> dict[str, Any] | None:
    """generation_config.json; None where the checkpoint has none."""
    if is_ctranslate2(folder):
        return CTranslate2Model(folder).generation()
    path = folder / "generation_config.json"
    return read_object(path) if path.exists() else None
