"""How requests end that do not end well."""

import asyncio

from antiphon.config.errors import (
    RequestCancelled,
    RequestError,
    RequestExpired,
    RequestFailed,
    RequestRefused,
    RequestTurnedAway,
)
from antiphon.scheduler.request import Finished, RequestState

ERRORS: dict[RequestState, type[RequestError]] = {
    RequestState.REFUSED: RequestRefused,
    RequestState.TURNED_AWAY: RequestTurnedAway,
    RequestState.CANCELLED: RequestCancelled,
    RequestState.EXPIRED: RequestExpired,
    RequestState.FAILED: RequestFailed,
}


def failure_of(future: "asyncio.Future[Finished]") -> str | None:
    """The name of the error that a request, which is done, has ended with."""
    error = future.exception()
    if error is None:
        kind = ERRORS.get(future.result().state)
        return None if kind is None else kind.__name__
    return type(error).__name__
