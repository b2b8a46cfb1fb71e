"""Where the package's log goes, for programs of our own."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def logs_to(handler: logging.Handler, quiet: bool) -> Iterator[None]:
    """Inside, `handler` gets what the package logs; only warnings if `quiet`."""
    logger = logging.getLogger("antiphon")
    before = logger.level
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
