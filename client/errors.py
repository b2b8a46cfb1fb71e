"""What a call to a server may raise."""

import json


class ClientError(Exception):
    """Root of all errors of the client. `status`: the server's answer, if there was one.
    `request_id`: what the server's log calls the request."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        param: str | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.request_id = status, param, code, request_id


class ConnectionFailed(ClientError):
    """The server could not be reached, or the connection broke off."""


class RequestRejected(ClientError):
    """The server refuses the request as it is: `param` names the field."""


class AuthenticationError(RequestRejected):
    """The server knows no such API key."""


class TooBusy(ClientError):
    """The server has too much to do, or is starting or stopping: the same request may succeed
    later."""


class ServerFailed(ClientError):
    """The server failed at the request."""


def error_of(status: int, content: bytes, request_id: str | None) -> ClientError:
    """From an answer that is no success."""
    detail: dict[str, str | None] = {}
    try:
        detail = json.loads(content)["error"]
        message = str(detail["message"])
    except (ValueError, KeyError, TypeError):
        message = content.decode("utf-8", "replace")[:500] or "no message"
        detail = {}
    kind: type[ClientError] = RequestRejected
    if status == 401:
        kind = AuthenticationError
    elif status in (429, 503):
        kind = TooBusy
    elif status >= 500:
        kind = ServerFailed
    return kind(
        f"{message} (status {status})",
        status=status,
        param=detail.get("param"),
        code=detail.get("code"),
        request_id=request_id,
    )
