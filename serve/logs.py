"""The server's log: one line each, with the time and the id of the request at work."""

import json
import logging
from datetime import UTC, datetime
from typing import TextIO

from antiphon.serve.identity import REQUEST_ID

LINE = "%(asctime)s %(levelname)s %(request_id)s %(message)s"


class WithRequestId(logging.Filter):
    """Adds `request_id` to every log record, "-" outside requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = REQUEST_ID.get()
        return True


class JsonLines(logging.Formatter):
    """One JSON object for each record."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {
            "time": time,
            "level": record.levelname,
            "logger": record.name,
            "request_id": getattr(record, "request_id", "-"),
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def handler_of(stream: TextIO, log_format: str = "text") -> logging.Handler:
    """`log_format`: "text", or "json" for programs that read the log."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if log_format == "json" else logging.Formatter(LINE))
    handler.addFilter(WithRequestId())
    return handler
