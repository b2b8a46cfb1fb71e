"""What `antiphon serve` does: engines, then the server over them."""

import logging
import secrets
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from antiphon.config.errors import ConfigurationError
from antiphon.serve.settings import ServerSettings
from antiphon.serve.signals import first_signal

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
        if self.replicas < 1:
            raise ConfigurationError(f"replicas must be 1 or more, not {self.replicas}")
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

        def num_open() -> int:
            return sum(engine.stats().get("open", 0) for engine in engines)

        serving = running(plan.settings, names, plan.replicas, num_open)
        address = scope.enter_context(serving)
        logger.info("ready: %s", address)
        stopped = threading.Event()
        with first_signal(stopped.set):
            stopped.wait()
        logger.info("stopping: open requests have %g s", plan.settings.limits.drain_seconds)
