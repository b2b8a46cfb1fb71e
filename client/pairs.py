"""NAME=VALUE arguments of the command line."""

import json
from typing import Annotated, Any

import typer

from antiphon.config.errors import ConfigurationError

EngineOption = Annotated[list[str], typer.Option("--option", "-o", metavar="NAME=VALUE", help="An engine option; may be repeated.")]


def parse_pairs(pairs: list[str], flag: str) -> dict[str, Any]:
    """Values are JSON where they can be (numbers, true, null, lists), else text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ConfigurationError(f"{flag} {pair}: write NAME=VALUE")
        try:
            found[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            found[name.replace("-", "_")] = value
    return found
