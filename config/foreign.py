"""Names of vLLM, transformers, OpenAI's clients and faster-whisper: their fate here.

A name that means the same as one of ours is an alias. A name that cannot be honored is
refused with the reason, unless its value asks for what happens anyway (`best_of=1`).
"""

import reprlib
from collections.abc import Mapping
from typing import Any

# By name: the values that change nothing, and why others are refused.
NotHonored = Mapping[str, tuple[tuple[Any, ...], str]]


def shown(value: Any) -> str:
    """A short repr of anything, for messages."""
    try:
        return reprlib.repr(value)
    except ValueError:  # whole numbers of more than 4300 digits have no repr
        return f"a number of {value.bit_length()} bits"


def refusal(name: str, value: Any, table: NotHonored) -> str | None:
    """Why `table` refuses this value of `name`; None for one that changes nothing."""
    neutral, reason = table[name]
    if value is None or any(type(value) is type(same) and value == same for same in neutral):
        return None
    return f"{name}={shown(value)} cannot be honored: {reason}"
