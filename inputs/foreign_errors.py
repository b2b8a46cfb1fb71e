"""Turns the errors that other libraries raise for one input into errors of that input."""

from collections.abc import Iterator
from contextlib import contextmanager

from antiphon.config.errors import AntiphonError, InputError

LONGEST_REASON = 200  # characters


@contextmanager
def foreign_errors_as(kind: type[InputError], subject: str) -> Iterator[None]:
    """Raises `kind` for errors that are not Antiphon's, so that one input never harms others.

    `subject` begins the message. The original error is chained.
    """
    try:
        yield
    except AntiphonError:
        raise
    except Exception as error:  # callers' own objects may raise anything
        reason = " ".join(str(error).split())
        shown = reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}…"
        # A ValueError's sentence says all; of others the type may be half of what they say.
        is_said = type(error) is ValueError and " " in reason
        said = shown if is_said else ": ".join([type(error).__name__, *([shown] if shown else [])])
        raise kind(f"{subject}: {said}") from error
