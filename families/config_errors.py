"""Errors of a config.json that lacks a size, or garbles one."""

from collections.abc import Iterator
from contextlib import contextmanager

from antiphon.config.errors import CheckpointError


@contextmanager
def config_errors(model: str) -> Iterator[None]:
    """Raises CheckpointError for what a missing or garbled size of `model` makes Python raise."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"config.json of {model} lacks {error}") from None
    except ZeroDivisionError:
        raise CheckpointError(f"config.json of {model} has 0 attention heads") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"config.json of {model} has a value of the wrong type: {error}"
        ) from None
