"""What `serve deploy` starts on a cluster whose Ray Serve runs by itself: see `application`."""

import secrets
from contextlib import ExitStack
from typing import Any

from ray import serve

from antiphon.config.errors import ConfigurationError
from antiphon.engine.sync_engine import Engine
from antiphon.serve.command import Plan, check_models
from antiphon.serve.config_file import SECTIONS, SERVER, checked_config, plan_of
from antiphon.serve.deployment import frontend_of

PLACE = "args"
ANYWHERE = "0.0.0.0"  # where Serve listens is its own: `http_options`
OF_SERVE = {  # names of its own file
    "host": "http_options", "port": "http_options", "log_format": "logging_config (encoding: JSON)",
}  # fmt: skip


def application(args: dict[str, Any]) -> Any:
    """For `import_path`. `args`: the options of `antiphon serve --config`, but for host, port and
    the log's format, which are Serve's. Raises ConfigurationError.

    One deployment starts the engines and owns their workers; the frontends, `replicas` of them,
    share these. Where engines end, Serve starts both again.
    """
    for name, place in OF_SERVE.items():
        if name in args:
            raise ConfigurationError(f"{PLACE}: '{name}' belongs into Serve's {place}")
    names = [name for name in (*SERVER, *SECTIONS) if name not in OF_SERVE]
    plan = plan_of({**checked_config(PLACE, args, names), "host": ANYWHERE})
    if not plan.over_ray:
        raise ConfigurationError(f"{PLACE}: 'ray' cannot be off on a cluster")
    check_models(plan)
    engines = {
        name: plan.engine.get("name") or f"serve-{secrets.token_hex(4)}" for name in plan.models
    }
    limits = plan.settings.limits
    owner = serve.deployment(
        Owner, name="engines", num_replicas=1, ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=limits.drain_seconds,
    )  # fmt: skip
    frontend = frontend_of(plan.settings, engines, plan.replicas)
    return frontend.bind(owner.bind(plan, engines))


class Owner:
    """The engines of all models, while this replica lives. `engines`: their names."""

    def __init__(self, plan: Plan, engines: dict[str, str]) -> None:
        self._scope = ExitStack()
        self._engines = [
            self._scope.enter_context(Engine(model, **{**plan.engine, "name": engines[name]}))
            for name, model in plan.models.items()
        ]

    def ready(self) -> bool:
        """Once it can be called."""
        return True

    def check_health(self) -> None:
        """Raises EngineDeadError."""
        for engine in self._engines:
            engine.stats()

    def __del__(self) -> None:
        self._scope.close()
