"""The exit code of an error that ends a command. This is the one place that decides.

0 all is done; 1 something failed: a recording, a prompt, an engine; 2 wrong usage: flags, values
of options, a model or a language that cannot be what was meant, all told before an engine starts;
128 + N a signal.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from antiphon.config.errors import (
    AntiphonError,
    CheckpointError,
    ConfigurationError,
    InputError,
)

FAILED, WRONG_USAGE = 1, 2
USAGE_ERRORS = (CheckpointError, ConfigurationError, InputError)


class EngineFailed(AntiphonError):
    """An engine that was about to start, or ran, could not go on."""


@contextmanager
def engine_errors() -> Iterator[None]:
    """Around an engine's life: whatever it raises is a failure, as the usage was found right."""
    try:
        yield
    except AntiphonError as error:
        raise EngineFailed(str(error)) from error


def exit_code(error: AntiphonError) -> int:
    return WRONG_USAGE if isinstance(error, USAGE_ERRORS) else FAILED
