"""What all endpoints share: the models, their engines, limits and counters."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from fastapi import Request

from antiphon.config.errors import UnsupportedModelError
from antiphon.engine.async_engine import AsyncEngine
from antiphon.engine.open_request import OpenRequest
from antiphon.families.checkpoint import ModelConfig
from antiphon.scheduler.request import Finished
from antiphon.serve.admission import Admission
from antiphon.serve.errors import ApiError
from antiphon.serve.metric_sinks import MetricSink
from antiphon.serve.metrics import Metrics
from antiphon.serve.settings import ServerSettings
from antiphon.serve.traces import Traces

OpenEngine = Callable[[], Awaitable[AsyncEngine]]  # starts it, or attaches to a running one


@dataclass(frozen=True)
class ServedModel:
    """A model by the name that clients send."""

    name: str
    engine: AsyncEngine
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def takes_audio(self) -> bool:
        return self.engine.inputs.audio is not None

    @property
    def takes_images(self) -> bool:
        return self.engine.inputs.images is not None or self.attends_to_image

    @property
    def takes_text_alone(self) -> bool:
        return not (self.takes_audio or self.attends_to_image)

    @property
    def attends_to_image(self) -> bool:
        """True if each of its prompts has one image, beside the decoder's text (TrOCR, Donut)."""
        return self.engine.inputs.attended_image is not None


def check_served(model: ModelConfig) -> None:
    """Raises UnsupportedModelError for a model that no endpoint takes."""
    if model.decoder_half is None:
        raise UnsupportedModelError(
            f"{model.path} is an encoder alone, which has no route over HTTP: use Engine.encode()"
        )


class Service:
    """`openers`: how to get the engine of each model, by the name that clients send. `sinks`: where
    measurements go beside the page /metrics."""

    def __init__(
        self,
        settings: ServerSettings,
        openers: Mapping[str, OpenEngine],
        sinks: Iterable[MetricSink] = (),
        traces: Traces | None = None,
    ) -> None:
        self.settings, self.limits = settings, settings.limits
        self.admission = Admission(self.limits.open_requests)
        self.sessions = Admission(self.limits.open_requests)  # of /v1/realtime
        self.metrics = Metrics(self.admission, sinks, self.sessions)
        self.noting: asyncio.Task[None] | None = None  # of workers' counters, in `metrics`
        self.models: dict[str, ServedModel] = {}
        self._openers, self._engines = dict(openers), AsyncExitStack()
        self._traces = traces

    @property
    def ready(self) -> bool:
        return len(self.models) == len(self._openers) and not self.admission.draining

    async def __aenter__(self) -> Self:
        try:
            for name, opener in self._openers.items():
                engine = await opener()
                self._engines.push_async_callback(engine.close)
                self.models[name] = ServedModel(name, engine)
                engine.requests.on_end = partial(self._note_request, name)
        except BaseException:
            await self._engines.aclose()
            raise
        return self

    def begin_to_drain(self) -> None:
        """What is open goes on; nothing new begins."""
        self.admission.draining = self.sessions.draining = True

    def _note_request(
        self, model: str, opened: OpenRequest, future: "asyncio.Future[Finished]"
    ) -> None:
        self.metrics.note_request(model, opened, future)
        if self._traces is not None:
            self._traces.note_request(model, opened, future)

    async def __aexit__(self, *_: object) -> None:
        self.begin_to_drain()
        self.models.clear()
        await self._engines.aclose()

    def model(self, name: str | None) -> ServedModel:
        """By name; without one, the only model. Raises ApiError."""
        if name is None:
            return self._only(list(self.models.values()))
        if name not in self.models:
            raise ApiError(
                404,
                f"no model {name[:100]!r} here; there is {self._names()}",
                param="model",
                code="model_not_found",
            )
        return self.models[name]

    def _named(self, name: str | None, fits: Callable[[ServedModel], bool]) -> ServedModel:
        """By name; without one, the only model that fits, or the only one. Raises ApiError."""
        if name is None and (fitting := [model for model in self.models.values() if fits(model)]):
            return self._only(fitting)
        return self.model(name)

    def _only(self, models: list[ServedModel]) -> ServedModel:
        if len(models) != 1:
            raise ApiError(400, f"give 'model': one of {self._names()}", param="model")
        return models[0]

    def _names(self) -> str:
        return ", ".join(repr(name) for name in self.models)

    def audio_model(self, name: str | None) -> ServedModel:
        """By name; without one, the only model that listens. Raises ApiError."""
        model = self._named(name, lambda model: model.takes_audio)
        if not model.takes_audio:
            raise ApiError(
                400,
                f"{model.name} reads text: use /v1/completions or /v1/chat/completions",
                param="model",
            )
        return model

    def text_model(self, name: str | None) -> ServedModel:
        """By name; without one, the only model that reads text alone. Raises ApiError."""
        model = self._named(name, lambda model: model.takes_text_alone)
        if not model.takes_text_alone:
            does, path = "listens", "/v1/audio/transcriptions"
            if not model.takes_audio:
                does, path = "reads an image", "/v1/chat/completions"
            raise ApiError(400, f"{model.name} {does}: use {path}", param="model")
        return model

    def deadline(self, requested: float | None) -> float:
        """Seconds that a request has: its own wish within the server's limit."""
        longest = self.limits.request_seconds
        return longest if requested is None else min(requested, longest)


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service
