"""A server on Ray Serve, of plain objects: its health, and what it leaves behind."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from antiphon.config.errors import ConfigurationError, EngineDeadError
from antiphon.serve import deployment
from antiphon.serve.deployment import Frontend, running
from antiphon.serve.settings import ServerSettings


def of_dead_engine(owner: Any, stop: str | None = None) -> Frontend:
    def check_caller() -> None:
        raise EngineDeadError("the engine has ended")

    frontend = Frontend.__new__(Frontend)
    asyncio.run(frontend.__init__(owner, stop))  # type: ignore[func-returns-value, arg-type, misc]
    models = {"m": SimpleNamespace(engine=SimpleNamespace(check_caller=check_caller))}
    service: Any = SimpleNamespace(models=models)
    frontend.app = SimpleNamespace(state=SimpleNamespace(service=service))  # type: ignore
    return frontend


def test_a_frontend_outlives_its_engine_where_no_other_will_come() -> None:
    asyncio.run(of_dead_engine(None).check_health())


def test_a_frontend_makes_way_where_new_engines_start() -> None:
    async def ready() -> bool:
        return True

    owner = SimpleNamespace(ready=SimpleNamespace(remote=ready))
    with pytest.raises(EngineDeadError):
        asyncio.run(of_dead_engine(owner).check_health())


@pytest.mark.parametrize("lives", [True, False])
def test_an_application_ends_with_the_process_that_served_it(
    lives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[tuple[str, bool]] = []
    gone = [True, False, True] if lives else [True, True]

    def delete(name: str, _blocking: bool) -> None:
        deleted.append((name, _blocking))

    monkeypatch.setattr(deployment, "serve", SimpleNamespace(delete=delete))
    monkeypatch.setattr(deployment, "is_gone", lambda name: name == "stop-1" and gone.pop(0))
    frontend = of_dead_engine(None, "stop-1")
    while gone:
        asyncio.run(frontend.check_health())
    assert deleted == ([] if lives else [(deployment.APPLICATION, False)])


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `running` does with Serve and the signal, in turn."""
    calls: list[str] = []

    def noting(name: str) -> Callable[..., None]:
        return lambda *_, **__: calls.append(name)

    names = ("start", "run", "delete", "shutdown")
    serve = SimpleNamespace(**{name: noting(name) for name in names})
    signal = SimpleNamespace(name="stop", give=noting("give"), close=noting("close"))
    monkeypatch.setattr(deployment, "serve", serve)
    monkeypatch.setattr(deployment, "StopSignal", lambda: signal)
    monkeypatch.setattr(deployment, "application", lambda *_: None)
    return calls


def test_a_server_drains_and_takes_all_away(done: list[str]) -> None:
    left = [2, 1, 0]
    with running(ServerSettings(), {}, 1, lambda: left.pop(0)):
        assert done == ["start", "run"]
    assert not left
    assert done[2:] == ["give", "delete", "shutdown", "close"]


def test_a_server_that_cannot_start_leaves_nothing(
    done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise RuntimeError("deploying failed")

    monkeypatch.setattr(deployment.serve, "run", run)
    with (
        pytest.raises(ConfigurationError, match="deploying failed"),
        running(ServerSettings(), {}, 1, lambda: 0),
    ):
        pass
    assert done == ["start", "shutdown", "close"]
