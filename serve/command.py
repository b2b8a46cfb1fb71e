"""What `antiphon serve` does: engines, then the server over them."""

import logging
import secrets
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from antiphon.config.errors import ConfigurationError, EngineDeadError
from antiphon.config.option_values import whole_number
from antiphon.serve.settings import ServerSettings
from antiphon.serve.signals import first_signal

if TYPE_CHECKING:
    from antiphon.engine.sync_engine import Engine

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """`models`: checkpoints by the name that clients send. `engine`: options of every engine.
    `replicas`: frontends over Ray."""

    settings: ServerSettings
    models: Mapping[str, str]
    engine: Mapping[str, Any]
    replicas: int = 1

    def __post_init__(self) -> None:
        """Raises ConfigurationError."""
        if not self.models:
            raise ConfigurationError("give a model: antiphon serve MODEL, or 'models' in --config")
        whole_number("replicas", self.replicas)
        if not self.over_ray and self.replicas > 1:
            raise ConfigurationError("without Ray there is one replica")
        if self.engine.get("name") is not None and len(self.models) > 1:
            raise ConfigurationError(f"{len(self.models)} engines cannot share one name")

    @property
    def over_ray(self) -> bool:
        return self.engine.get("ray") is not False


def run(plan: Plan) -> None:
    """Serves until the process is told to end. Raises AntiphonError."""
    limits = plan.settings.limits
    logger.info(
        "serving %s; %s; up to %g MiB and %g s of sound a request, %d open requests",
        ", ".join(plan.models),
        f"{len(plan.settings.api_keys)} API keys" if plan.settings.api_keys else "no API key",
        limits.upload_mib,
        limits.audio_seconds,
        limits.open_requests,
    )
    if plan.over_ray:
        _over_ray(plan)
    else:
        _in_this_process(plan)


def _in_this_process(plan: Plan) -> None:
    from antiphon.serve.one_process import opener, serve

    serve(plan.settings, {name: opener(model, plan.engine) for name, model in plan.models.items()})


def check_models(plan: Plan) -> None:
    """Raises UnsupportedModelError for a model that no endpoint takes, before any is started."""
    from antiphon.config.options import resolve
    from antiphon.families.checkpoint import ModelConfig
    from antiphon.serve.service import check_served

    for model in plan.models.values():
        check_served(ModelConfig.load(resolve(model, plan.engine).model))


def _over_ray(plan: Plan) -> None:
    from antiphon.engine.sync_engine import Engine

    check_models(plan)
    with ExitStack() as scope:
        names, engines = {}, []
        for name, model in plan.models.items():
            options = {**plan.engine}
            names[name] = options["name"] = options.get("name") or f"serve-{secrets.token_hex(4)}"
            engines.append(scope.enter_context(Engine(model, **options)))
        from antiphon.serve.deployment import running  # not above: an engine joins Ray first

        serving = running(plan.settings, names, plan.replicas, partial(num_open, engines))
        address = scope.enter_context(serving)
        logger.info("ready: %s", address)
        stopped = threading.Event()
        with first_signal(stopped.set):
            stopped.wait()
        logger.info("stopping: open requests have %g s", plan.settings.limits.drain_seconds)


def num_open(engines: "Iterable[Engine]") -> int:
    """The requests of all engines, at work or waiting. One that has ended has none, and the others'
    are still waited for."""
    count = 0
    for engine in engines:
        with suppress(EngineDeadError):
            count += engine.stats().get("open", 0)
    return count
