"""The id of the request at work, for answers and log lines."""

import re
import secrets
from contextvars import ContextVar

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
HEADER = b"x-request-id"
VALID = re.compile(rb"[\w.:/=-]{1,128}", re.ASCII)


def request_id(headers: list[tuple[bytes, bytes]]) -> str:
    """The client's own id if it has the form of one, else a new one."""
    for name, value in headers:
        if name == HEADER and VALID.fullmatch(value):
            return value.decode()
    return f"req-{secrets.token_hex(12)}"
