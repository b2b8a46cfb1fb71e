"""NAME=VALUE arguments of the command line."""

import json
from typing import Any

from antiphon.config.errors import ConfigurationError

_AS_PYTHON_WRITES = {"True": "true", "False": "false", "None": "null"}


def parse_pairs(pairs: list[str], flag: str) -> dict[str, Any]:
    """Values by name. Each is read as JSON (numbers, true, null, lists) or as Python writes true,
    false and null; any other is text."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigurationError(f"{flag} {pair}: write NAME=VALUE")
        name = name.replace("-", "_")
        if name in values:
            raise ConfigurationError(f"{flag} {name} is given twice")
        try:
            values[name] = json.loads(_AS_PYTHON_WRITES.get(value, value))
        except ValueError:
            values[name] = value
    return values
