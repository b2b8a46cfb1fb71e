"""Waiting for the signal to stop outlasts its actor; giving it fails without an error."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError

from antiphon.actors import stop_signal
from antiphon.actors.stop_signal import StopSignal, wait_for_signal


def failing(error: Exception) -> Callable[[], Awaitable[None]]:
    async def wait() -> None:
        raise error

    return wait


def test_only_the_signal_itself_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        signal = asyncio.Event()
        waits: list[Any] = [
            failing(ActorUnavailableError("it starts again", None)),
            ValueError("no actor of that name"),
            failing(ActorDiedError()),
            signal.wait,
        ]

        def get_actor(name: str, namespace: str) -> Any:
            if isinstance(wait := waits.pop(0), Exception):
                raise wait
            return SimpleNamespace(wait=SimpleNamespace(remote=wait))

        monkeypatch.setattr(stop_signal, "ray", SimpleNamespace(get_actor=get_actor))
        monkeypatch.setattr(stop_signal, "AGAIN_SECONDS", 0.0)
        waiting = asyncio.create_task(wait_for_signal("stop"))
        while waits:
            assert not waiting.done()
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        signal.set()
        await asyncio.wait_for(waiting, 5.0)

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [ActorDiedError(), GetTimeoutError("no answer")])
def test_a_server_stops_without_its_actor(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def get(_: Any, timeout: float) -> None:
        raise error

    monkeypatch.setattr(stop_signal, "ray", SimpleNamespace(get=get))
    signal = StopSignal.__new__(StopSignal)
    signal._actor = SimpleNamespace(give=SimpleNamespace(remote=lambda: None))
    signal.give()
    assert "could not be told" in caplog.text
