"""Triton's interpreter, without what takes 40 % of its time.

At every launch, and at every call of a function by a kernel, it lists all members of Triton's
language to find the builtin ones, which it replaces. They are found once here, and where they are
replaced already, as inside a kernel, nothing is done.
"""

import inspect
from functools import cache
from typing import Any

from triton.language import core
from triton.runtime import interpreter


@cache
def _builtins(part: Any) -> list[str]:
    return [name for name, member in inspect.getmembers(part) if core.is_builtin(member)]


def _replace_builtins(part: Any, builder: Any, scope: Any) -> None:
    names = _builtins(part)
    if not names or not core.is_builtin(getattr(part, names[0])):
        return
    for name in names:
        interpreter._patch_attr(part, name, getattr(part, name), builder, scope)


def quicken() -> None:
    interpreter._patch_builtin = _replace_builtins
