"""Reads the JSON files of a checkpoint folder."""

import json
from pathlib import Path
from typing import Any

from antiphon.config.errors import CheckpointError


def read_object(path: Path) -> dict[str, Any]:
    """What a file holds. Raises CheckpointError where it can't be read, or is no JSON object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def read_json(path: Path) -> Any:
    """Raises CheckpointError where the file can't be read."""
    try:
        # utf-8-sig: editors on Windows begin files with a mark.
        return json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
