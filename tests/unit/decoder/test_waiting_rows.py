"""Rows that wait for the host, beside rows that the device runs ahead of it."""

from typing import Any

import numpy as np
import pytest
from plain_engine import PlainEngine

from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.request import Finished

TEXTS = [np.array(ids, np.int32) for ids in ([7, 12, 5, 9], [3, 4], [30, 8, 8, 21, 6], [11])]
DRAWN = SamplingParams(temperature=0.9, top_p=0.9, seed=4, logprobs=1)


@pytest.fixture(scope="module")
def engine(checkpoints: Any) -> PlainEngine:
    options = {"max_num_seqs": 4, "max_model_len": 40, "kv_page_size": 8, "num_kv_pages": 9}
    return PlainEngine(checkpoints("t5")[0], num_scheduler_steps=4, **options)


def results(engine: PlainEngine, waits: tuple[bool, ...]) -> list[Finished]:
    """Of the texts, whose rows wait or not. Checks that those alone are never looked past."""
    scheduler = engine.replica.scheduler
    requests = []
    for number, (text, row_waits) in enumerate(zip(TEXTS, waits, strict=True)):
        params = DRAWN if number == 1 else SamplingParams(logprobs=1)
        request = engine.request(text, [0], 16, params=params, waits_for_host=row_waits)
        engine.submit(request)
        requests.append((request, row_waits))
    most = {True: 0, False: 0}
    while scheduler.requests:
        engine.step()
        for request, row_waits in requests:
            if request.slot >= 0:
                pending = int(scheduler.batch.pending[request.slot])
                most[row_waits] = max(most[row_waits], pending)
    assert most[True] == any(waits)
    assert most[False] == (0 if all(waits) else 3)  # a step is settled before `step` returns
    scheduler.pages.check()
    return [engine.finished[request.id.number] for request, _ in requests]


@pytest.mark.parametrize("waits", [(True,) * 4, (True, False, True, False), (False, True) * 2])
def test_they_give_what_they_give_without_waiting(
    engine: PlainEngine, waits: tuple[bool, ...]
) -> None:
    """Also where the pool runs short, and rows are preempted."""
    wanted = results(engine, (False,) * 4)
    for end, of_wanted in zip(results(engine, waits), wanted, strict=True):
        assert (end.token_ids, end.reason) == (of_wanted.token_ids, of_wanted.reason)
        for new, old in zip(end.logprobs, of_wanted.logprobs, strict=True):
            assert new.ids == old.ids
            np.testing.assert_allclose(new.logprobs, old.logprobs, atol=1e-4)
    assert engine.replica.scheduler.counters["preemptions"] > 0
