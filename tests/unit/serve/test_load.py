"""What `GET /load` says of the pools of a model."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from antiphon.scheduler.worker_load import WorkerState
from antiphon.serve.load import load_of

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
    load = asyncio.run(load_of(service))
    pages = {"open": 3, "running": 2, "kv_pages": 20, "kv_pages_available": 12, **states}
    assert load == {
        "open_requests": 4,
        "limit": 9,
        "models": {
            "m": {
                "encoder": {"workers": 1, "waiting_tokens": 1500},
                "decoder": {"workers": 1, **pages},
            }
        },
    }
