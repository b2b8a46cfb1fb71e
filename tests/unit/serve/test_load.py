"""What `GET /load` says of the pools of a model."""

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from antiphon.scheduler.worker_load import WorkerState
from antiphon.serve import app, load
from antiphon.serve.load import load_of
from antiphon.serve.service import Service
from antiphon.serve.settings import ServerSettings

KV = {"open": 3, "running": 2, "kv_pages": 20, "kv_pages_available": 12, "steps": 40}
STATES = {"hidden_state_pages": 8, "hidden_state_pages_available": 5}


class Engine:
    """Two encoders, one of them drained, and a decoder with these `counters`."""

    def __init__(self, counters: dict[str, int]) -> None:
        self.counters = counters
        encoders = [WorkerState(f"encoder-{n}", "encoder", draining=n == 1) for n in (0, 1)]
        states = [*encoders, WorkerState("decoder-0", "decoder")]
        router = SimpleNamespace(states=states, load_of=lambda name: 1500.4)
        self.requests = SimpleNamespace(router=router)

    async def stats(self) -> dict[str, int]:
        return self.counters


@pytest.mark.parametrize("states", [{}, STATES])
def test_pages_of_hidden_states_are_there_where_cross_attention_reads_them(
    states: dict[str, int],
) -> None:
    service: Any = SimpleNamespace(
        models={"m": SimpleNamespace(engine=Engine(KV | states))},
        admission=SimpleNamespace(open=4, limit=9),
    )
    told = asyncio.run(load_of(service))
    pages = {"open": 3, "running": 2, "kv_pages": 20, "kv_pages_available": 12, **states}
    assert told == {
        "open_requests": 4,
        "limit": 9,
        "models": {
            "m": {
                "encoder": {"workers": 1, "waiting_tokens": 1500},
                "decoder": {"workers": 1, **pages},
            }
        },
    }


def test_a_reading_that_fails_is_not_the_last_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(load, "NOTING_SECONDS", 0.0)

    async def run() -> None:
        readings, done = 0, asyncio.Event()

        async def note(_: object) -> None:
            nonlocal readings
            readings += 1
            if readings > 2:
                done.set()
            raise OSError("no room for metrics")

        monkeypatch.setattr(load, "note_workers", note)
        noting = asyncio.create_task(load.keep_noting(SimpleNamespace()))  # type: ignore[arg-type]
        async with asyncio.timeout(20):
            await done.wait()
        noting.cancel()

    asyncio.run(run())
    assert "could not be noted" in caplog.text
    assert "no room for metrics" in caplog.text


@pytest.mark.parametrize("fails", [False, True])
def test_what_runs_beside_a_server_ends_with_it(fails: bool) -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def run() -> None:
        with suppress(OSError):
            async with app._together([work(), work()]):
                await asyncio.sleep(0)
                if fails:
                    raise OSError("an engine is gone")
        assert ended == [True, True]

    asyncio.run(run())


def test_a_server_that_cannot_be_told_to_stop_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def stop() -> None:
        raise OSError("no signal")

    service = Service(ServerSettings(), {})
    asyncio.run(app._drain_after(stop, service))
    assert "was not told when to stop" in caplog.text
    assert not service.admission.draining
