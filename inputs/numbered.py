"""Which of several inputs an error is of."""

from collections.abc import Iterator
from contextlib import contextmanager

from antiphon.config.errors import InputError


@contextmanager
def numbered(kind: str, number: int, count: int) -> Iterator[None]:
    """An InputError raised inside says that it is of `kind` `number` (from 1) of `count`; where
    there is one alone, it stays as it is."""
    try:
        yield
    except InputError as error:
        if count == 1:
            raise
        message = f"{kind} {number} of {count}: {error}"
        raise type(error)(message, parameter=error.parameter) from error
