"""The exit code of an error that ends a command.

0: all is done. 1: a recording, a prompt or the engine failed. 2: wrong usage (flags, options, a
model or a language), always reported before an engine starts. 3: a batch is done, but some of its
lines failed. 128 + N: signal N.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from antiphon.config.errors import (
    AntiphonError,
    CheckpointError,
    ConfigurationError,
    InputError,
)

FAILED, WRONG_USAGE, SOME_LINES_FAILED = 1, 2, 3
USAGE_ERRORS = (CheckpointError, ConfigurationError, InputError)


class EngineFailed(AntiphonError):
    """An engine could not start, or could not go on."""


@contextmanager
def engine_errors() -> Iterator[None]:
    """Wraps an engine's life. Usage was checked before, so any error is a failure."""
    try:
        yield
    except AntiphonError as error:
        raise EngineFailed(str(error)) from error


def exit_code(error: AntiphonError) -> int:
    return WRONG_USAGE if isinstance(error, USAGE_ERRORS) else FAILED
