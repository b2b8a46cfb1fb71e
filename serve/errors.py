"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from antiphon.config.errors import (
    AntiphonError,
    ConfigurationError,
    EngineDeadError,
    InputError,
    RequestCancelled,
    RequestExpired,
    RequestRefused,
    RequestTurnedAway,
)

logger = logging.getLogger(__name__)

MISFIT = re.compile(r"_(type|parsing)$")  # complaints that a value is of another type
# How pydantic names a field's types in a place.
UNION_BRANCH = re.compile(r"str|int|float|bool|\w+\[.*\]|[A-Z]\w*")
# Types of pydantic's complaints for `Body`'s own, and codes of their answers.
UNSUPPORTED: Literal["unsupported"] = "unsupported"
UNKNOWN: Literal["unknown"] = "unknown"
CLIENT_LEFT = 499  # nginx's number; nobody reads it but the log
TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    405: "not_found_error",
    429: "rate_limit_error",
}
# The most specific class first.
STATUSES: list[tuple[type[AntiphonError], int, str | None]] = [
    (InputError, 400, None),
    (ConfigurationError, 400, None),
    (RequestTurnedAway, 429, "too_many_requests"),
    (RequestRefused, 400, "request_refused"),
    (RequestExpired, 504, "deadline_exceeded"),
    (RequestCancelled, CLIENT_LEFT, "cancelled"),
    (EngineDeadError, 503, "engine_unavailable"),
]


class ApiError(Exception):
    """An answer that is an error. `param`: the field of the request that is at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after  # seconds
        self.headers = dict(headers or {})  # further ones, such as Allow

    @property
    def type(self) -> str:
        other = "server_error" if self.status >= 500 else "invalid_request_error"
        return TYPES.get(self.status, other)

    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        headers = self.headers.copy()
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        # In ASCII: what a client sent, and is told of, may hold what UTF-8 has no bytes for.
        content = json.dumps(self.body(), separators=(",", ":"))
        return Response(content, self.status, headers, media_type="application/json")


def stopping() -> ApiError:
    return ApiError(503, "the server is stopping", code="stopping", retry_after=1)


def refused(param: str, reason: str) -> ApiError:
    """For a field that cannot be honored."""
    return ApiError(400, f"'{param}' cannot be honored: {reason}", param=param, code=UNSUPPORTED)


def as_api_error(error: Exception) -> ApiError:
    """Any error of a request as what its client reads. Unexpected ones are logged, not shown."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, (RequestValidationError, ValidationError)):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), headers=error.headers)
    if isinstance(error, AntiphonError):
        for kind, status, code in STATUSES:
            if isinstance(error, kind):
                retry_after = 1 if status in (429, 503) else None
                param = error.parameter if isinstance(error, InputError) else None
                return ApiError(status, str(error), param=param, code=code, retry_after=retry_after)
        return ApiError(500, str(error))
    logger.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed; its log says more")


def _of_validation(error: RequestValidationError | ValidationError) -> ApiError:
    """The first of pydantic's complaints that goes deepest: of a field with several types, it is
    about the one that the value was meant to be, and so before what says that it has no such
    type."""
    problem = max(error.errors(), key=lambda one: (len(one["loc"]), not MISFIT.search(one["type"])))
    location = [str(part) for part in problem["loc"] if part not in ("body", "query", "path")]
    if problem["type"] in (UNSUPPORTED, UNKNOWN):
        param = ".".join([*_names(location[:-1]), *problem["ctx"]["name"]])
        if problem["type"] == UNSUPPORTED:
            return refused(param, problem["ctx"]["reason"])
        return ApiError(400, f"there is no field '{param[:100]}'", param=param, code=UNKNOWN)
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "json_invalid":
        return ApiError(400, f"the body is no valid JSON: {message}")
    if isinstance(error, RequestValidationError) and not location:
        return ApiError(400, "send a JSON object, with 'content-type: application/json'")
    place = ".".join(_names(location)) or None
    return ApiError(400, f"'{place}': {message}" if place else message, param=place)


def _names(location: Sequence[str]) -> list[str]:
    """Of fields, without those of their types."""
    return [part for part in location if not UNION_BRANCH.fullmatch(part)]


def add_handlers(app: FastAPI) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        return as_api_error(error).response()

    for kind in (ApiError, AntiphonError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
