"""A server on Ray Serve: HTTP replicas are frontends of the engines' pools."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from ray import serve

from antiphon.actors.stop_signal import StopSignal, is_gone, wait_for_signal
from antiphon.config.errors import ConfigurationError, describe
from antiphon.engine.async_engine import AsyncEngine
from antiphon.serve.app import make_app
from antiphon.serve.ray_metrics import RayMetrics
from antiphon.serve.service import OpenEngine
from antiphon.serve.settings import KEEP_ALIVE_SECONDS, ServerSettings

logger = logging.getLogger(__name__)

APPLICATION = "antiphon"
POLL_SECONDS = 0.1
CHECKS_ALONE = 2  # of a replica's health in a row, ten seconds apart


def attacher(engine: str) -> OpenEngine:
    """Shares the workers of a running engine."""

    async def attach() -> AsyncEngine:
        return await AsyncEngine.attach(engine)

    return attach


def application(
    settings: ServerSettings, engines: Mapping[str, str], replicas: int, stop: str
) -> Any:
    """For `serve.run`. `engines`: names of running engines, by the name that clients send. `stop`:
    name of the `StopSignal` at which replicas end what they have, and take nothing new."""
    return frontend_of(settings, engines, replicas, stop).bind(stop=stop)


def frontend_of(
    settings: ServerSettings, engines: Mapping[str, str], replicas: int, stop: str | None = None
) -> Any:
    """The deployment of HTTP replicas. It may be bound to that of the engines' owner, for which
    replicas wait."""

    def build() -> FastAPI:
        _log_as_serve_does()
        openers = {name: attacher(engine) for name, engine in engines.items()}
        # Serve's proxy adds ids.
        return make_app(
            settings, openers, adds_id=False, sinks=[RayMetrics()],
            stop=None if stop is None else partial(wait_for_signal, stop),
        )  # fmt: skip

    return serve.deployment(
        serve.ingress(build)(Frontend),
        name="frontend",
        num_replicas=replicas,
        # Beyond its own limit a replica answers 429 itself, at once.
        max_ongoing_requests=settings.limits.open_requests + 64,
        graceful_shutdown_timeout_s=settings.limits.drain_seconds,
        ray_actor_options={"num_cpus": 0},
    )


class Frontend:
    """`owner`: of the engines, if it is a deployment too; else `stop`, the name of the signal of
    the process that has started them."""

    app: FastAPI

    async def __init__(  # type: ignore[misc]
        self, owner: Any = None, stop: str | None = None
    ) -> None:
        self._has_owner, self._stop, self._alone = owner is not None, stop, 0
        if owner is not None:
            await owner.ready.remote()

    async def check_health(self) -> None:
        """Raises EngineDeadError where an owner starts new engines, to which a new replica will
        attach. Without one there will be none: this replica goes on, and answers 503, while the
        process lives that has started the engines. Where that was killed, nobody else would take
        the application away."""
        if not self._has_owner:
            return await self._leave_if_alone()
        for model in self.app.state.service.models.values():
            model.engine.check_caller()

    async def _leave_if_alone(self) -> None:
        gone = self._stop is not None and await asyncio.to_thread(is_gone, self._stop)
        self._alone = self._alone + 1 if gone else 0
        if self._alone >= CHECKS_ALONE:
            logger.warning("the process that served this has ended: the application ends too")
            await asyncio.to_thread(serve.delete, APPLICATION, _blocking=False)


def _log_as_serve_does() -> None:
    """In a replica: our lines go where Serve's lines go."""
    own, of_serve = logging.getLogger("antiphon"), logging.getLogger("ray.serve")
    own.setLevel(logging.INFO)
    for handler in of_serve.handlers:
        if handler not in own.handlers:
            own.addHandler(handler)


@contextmanager
def running(
    settings: ServerSettings,
    engines: Mapping[str, str],
    replicas: int,
    num_open: Callable[[], int],
) -> Iterator[str]:
    """Serves inside, and gives the address. Ray must run, and the engines, which have `num_open`
    requests. At the end, open requests have `drain_seconds`, and new ones are turned away. Raises
    ConfigurationError if Serve cannot start."""
    http = {
        "host": settings.host,
        "port": settings.port,
        "keep_alive_timeout_s": KEEP_ALIVE_SECONDS,
        "request_timeout_s": settings.limits.request_seconds + settings.limits.idle_seconds,
    }
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with ExitStack() as scope:
        stop = scope.enter_context(closing(StopSignal()))
        scope.callback(serve.shutdown)
        try:
            serve.start(
                proxy_location="HeadOnly",
                http_options=http,
                logging_config={
                    "log_level": "WARNING",
                    "enable_access_log": False,
                    "encoding": settings.log_format.upper(),
                },
            )
            frontends = application(settings, engines, replicas, stop.name)
            serve.run(frontends, name=APPLICATION, route_prefix="/")
        except (RuntimeError, ValueError, OSError) as error:
            raise ConfigurationError(f"Ray Serve cannot start: {describe(error)}") from error
        scope.callback(serve.delete, APPLICATION)
        yield settings.url
        end = time.monotonic() + settings.limits.drain_seconds
        stop.give()
        while num_open() and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
