"""Who asks: the requests of one call of a program have one number, and callers share fairly.

The windows of a recording, the samples of a prompt, the prompts of a list: one call each. The
number follows a call into the tasks that it starts, as context variables do.
"""

import itertools
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

Item = TypeVar("Item")
T = TypeVar("T")

_numbers = itertools.count(1)
_caller: ContextVar[int | None] = ContextVar("caller", default=None)


def caller_number() -> int:
    """Of the present call; outside of any, a new one."""
    number = _caller.get()
    return next(_numbers) if number is None else number


class OneCaller:
    """What is asked inside has one number: `number`, or that of the call around it, if there is
    one. A generator, which may not yield inside, asks in several such scopes."""

    def __init__(self, number: int | None = None) -> None:
        self._number = caller_number() if number is None else number

    def __enter__(self) -> None:
        self._token = _caller.set(self._number)

    def __exit__(self, *_: object) -> None:
        _caller.reset(self._token)


def as_one_caller(
    call: Callable[[Item], Coroutine[Any, Any, T]],
) -> Callable[[Item], Coroutine[Any, Any, T]]:
    """`call`, so that all items are of one caller."""
    number = next(_numbers)

    async def run(item: Item) -> T:
        with OneCaller(number):
            return await call(item)

    return run
