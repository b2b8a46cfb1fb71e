"""The edge where what other libraries raise for one input becomes an error of that input."""

from collections.abc import Iterator
from contextlib import contextmanager

from antiphon.config.errors import AntiphonError, InputError


@contextmanager
def foreign_errors_as(kind: type[InputError], what: str) -> Iterator[None]:
    """Errors that are not ours become `kind`, so that one input never takes others with it.

    Our own pass. The one that was raised is chained.
    """
    try:
        yield
    except AntiphonError:
        raise
    except Exception as error:  # objects of callers' own may raise anything
        reason = " ".join(str(error).split())
        shown = reason if len(reason) <= 200 else f"{reason[:200]}…"
        raise kind(f"{what}: {type(error).__name__}{f': {shown}' if shown else ''}") from error
