"""The server's log: one line each, with the time and the id of the request at work."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from antiphon.serve.identity import REQUEST_ID

LINE = "%(asctime)s %(levelname)s %(request_id)s %(message)s"


class WithRequestId(logging.Filter):
    """Adds `request_id` to every log record, "-" outside requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = REQUEST_ID.get()
        return True


def handler_of(stream: TextIO) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(LINE))
    handler.addFilter(WithRequestId())
    return handler


@contextmanager
def logs_on_stderr(quiet: bool) -> Iterator[None]:
    """Shows what the server and its engines log; only warnings if `quiet`."""
    logger, handler = logging.getLogger("antiphon"), handler_of(sys.stderr)
    before = logger.level
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
