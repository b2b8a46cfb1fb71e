"""Which tests need what only the service and its clients need."""

import re
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

PACKAGES = (
    "fastapi",
    "openai",
    "opentelemetry",
    "pydantic",
    "schemathesis",
    "uvicorn",
    "websockets",
)
OWN = ("antiphon.serve", "delayed_server", "http_server")  # modules that import some of those


def missing() -> list[str]:
    return [name for name in PACKAGES if find_spec(name) is None]


def cannot_be_imported(path: Path, absent: Collection[str]) -> bool:
    """True for a module that imports one of the `absent` packages, or our own that may do so."""
    if not absent or path.suffix != ".py":
        return False
    names = "|".join(map(re.escape, (*absent, *OWN)))
    return re.search(rf"^(from|import) ({names})\b", path.read_text(), re.MULTILINE) is not None
