"""Starts an engine's supervisor and workers as Ray actors, or finds those of a running engine."""

import logging
import secrets
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, cast

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from antiphon.actors.attachment import Attachment
from antiphon.actors.blueprint import NAMESPACE, Blueprint, Started, supervisor_name
from antiphon.actors.cluster import RayWorkers
from antiphon.actors.membership import REMEDY
from antiphon.actors.placement import place
from antiphon.actors.processes import own_error, why_gone
from antiphon.actors.session import session
from antiphon.actors.supervisor import Supervisor
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.errors import AntiphonError, ConfigurationError, EngineDeadError
from antiphon.config.options import EngineConfig, ModelOptions
from antiphon.families.checkpoint import ModelConfig
from antiphon.scheduler.request import Incarnation

logger = logging.getLogger(__name__)

CHECK_SECONDS = 0.2  # how often a start checks whether it was given up
FIND_SECONDS = 30.0  # for a running supervisor to answer, which loads first
RESERVE_SECONDS = 10.0  # for Ray to find room for a stage; without, the start ends in time
SLACK_SECONDS = 5.0  # the supervisor keeps the time of a start; this is for its own

# One start at a time: each engine asks for the CPUs and GPUs that the ones before have left.
_starting = threading.Lock()


class StartGivenUp(Exception):
    """No caller waits for these workers any more."""


class SupervisorAway(EngineDeadError):
    """It has died; Ray may start it again."""


def launch(
    model: ModelConfig,
    config: EngineConfig,
    rules: TimestampRules | None,
    given_up: threading.Event,
) -> RayWorkers:
    """Joins or starts Ray, starts all workers and loads them.

    Raises ConfigurationError if they don't fit the cluster or the engine's name is taken, what
    their loading raised, and StartGivenUp soon after `given_up` was set. Nothing is left running
    then.
    """
    with ExitStack() as undo:
        session.join(config.workers.address)
        undo.callback(session.leave)
        with _starting:
            if given_up.is_set():
                raise StartGivenUp
            model = replace(model, path=model.path.absolute())  # other processes work elsewhere
            blueprint = Blueprint(model, config, rules, place(config))
            supervisor = _supervisor(blueprint)
            undo.callback(ray.kill, supervisor)
            started: dict[Incarnation, Started] = {}
            undo.callback(_kill_all, started)
            for incarnation, role in blueprint.first_starts:
                started[incarnation] = process = blueprint.start(incarnation, role)
                for group in process.reserved:  # before smaller ones take what it needs
                    group.wait(RESERVE_SECONDS)
            call = supervisor.start.remote(started)
            attachment = result(call, config.workers.startup_timeout + SLACK_SECONDS, given_up)
        undo.pop_all()
    return RayWorkers(supervisor, attachment, started)


def _supervisor(blueprint: Blueprint) -> Any:
    """Starts it on this node: it must not outlive this process. If it dies before, Ray starts it
    again, and `SupervisorLink.recover` tells it of its engine."""
    name = blueprint.config.workers.name
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Supervisor)
    placed = actor.options(  # all in one call: a second one would lose the strategy
        name=supervisor_name(name or secrets.token_hex(6)),
        namespace=NAMESPACE,
        num_cpus=0,
        max_restarts=-1,
        scheduling_strategy=this_node,
    )
    try:
        return placed.remote(blueprint)
    except ValueError:
        raise ConfigurationError(
            f"an engine named {name!r} runs in this cluster already: "
            f"Engine.attach({name!r}) shares it, another name starts another one"
        ) from None


def _kill_all(started: dict[Incarnation, Started]) -> None:
    for process in started.values():
        process.kill()


def result(call: Any, timeout: float, given_up: threading.Event) -> Any:
    """The result of a call of the supervisor. Raises its error, EngineDeadError after `timeout`
    seconds, and StartGivenUp."""
    deadline = time.monotonic() + timeout
    while not ray.wait([call], timeout=CHECK_SECONDS)[0]:
        if given_up.is_set():
            raise StartGivenUp
        if time.monotonic() > deadline:
            raise EngineDeadError(f"the workers did not start within {timeout:g} s: {REMEDY}")
    try:
        return ray.get(call)
    except AntiphonError as error:
        raise own_error(error) from None
    except ray.exceptions.ActorUnavailableError as error:
        raise SupervisorAway(f"the engine's supervisor is away: {why_gone(error)}") from None
    except ray.exceptions.RayActorError as error:
        raise EngineDeadError(f"the engine's supervisor ended: {why_gone(error)}") from None
    except ray.exceptions.RayError as error:
        raise EngineDeadError(f"the engine's supervisor failed: {error}") from error


# ---------------------------------------------------------------------- a running engine


@dataclass(frozen=True)
class RunningEngine:
    """An engine that some process has started, found in the cluster that this process has joined.
    `leave` it, or make `workers`, whose close does so."""

    supervisor: Any
    attachment: Attachment

    @property
    def config(self) -> EngineConfig:
        return self.attachment.blueprint.config

    @property
    def model_options(self) -> ModelOptions:
        """With the checkpoint's folder, if it is one on this machine: names may be relative."""
        path = self.attachment.blueprint.model.path
        return replace(self.config.model, model=str(path)) if path.is_dir() else self.config.model

    def workers(self) -> RayWorkers:
        return RayWorkers(self.supervisor, self.attachment)

    def leave(self) -> None:
        session.leave()


def find(name: str, address: str | None) -> RunningEngine:
    """The running engine of this name. Joins Ray.

    Raises ConfigurationError if no engine has it, and EngineDeadError if it is ending.
    """
    with ExitStack() as undo:
        session.join(address)
        undo.callback(session.leave)
        try:
            supervisor = ray.get_actor(supervisor_name(name), namespace=NAMESPACE)
        except ValueError:
            raise ConfigurationError(_no_such_engine(name)) from None
        attachment = _attachment(supervisor)
        undo.pop_all()
    return RunningEngine(supervisor, attachment)


def _attachment(supervisor: Any) -> Attachment:
    """Of a running engine; waits for a supervisor that is being started again."""
    deadline = time.monotonic() + FIND_SECONDS
    while True:
        try:
            left = max(CHECK_SECONDS, deadline - time.monotonic())
            call = supervisor.attachment.remote()
            return cast("Attachment", result(call, left, threading.Event()))
        except SupervisorAway:
            if time.monotonic() > deadline:
                raise
        time.sleep(CHECK_SECONDS)


def _no_such_engine(name: str) -> str:
    prefix = supervisor_name("")
    running = [
        repr(actor["name"].removeprefix(prefix))
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(prefix)
    ]
    others = f"those that run: {', '.join(sorted(running))}" if running else "none runs"
    return f"no engine named {name!r} runs in this cluster ({others})"
