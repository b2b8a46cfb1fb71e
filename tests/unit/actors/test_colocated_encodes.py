"""Hidden states for callers where each rank of a colocated replica encodes a share of a batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colocated_workers import ColocatedWorkers, colocated_workers
from plain_engine import PlainEngine

from antiphon.config.parallel import Parallel
from antiphon.scheduler.request import RequestState

SMALL: dict[str, Any] = {
    "max_num_seqs": 4,
    "max_model_len": 24,
    "kv_page_size": 4,
    "num_kv_pages": 60,
}
LAYOUTS = [Parallel(2), Parallel(2, 2)]
RNG = np.random.default_rng(2)
INPUTS = {f"in-{n}": RNG.integers(3, 60, 3 + 2 * n).astype(np.int32) for n in range(4)}


def check_states(workers: ColocatedWorkers, plain: PlainEngine) -> None:
    assert plain.encoder is not None
    for key, actual in workers.states.items():
        wanted = plain.encoder.encode([INPUTS[key]]).hidden.numpy()
        assert actual.shape == wanted.shape
        assert np.abs(actual - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("parallel", LAYOUTS, ids=str)
def test_they_are_complete_also_beside_requests(parallel: Parallel, checkpoints: Any) -> None:
    """Alone, within one batch with what the decoder wants, and before and after that."""
    folder: Path = checkpoints("t5")[0]
    plain = PlainEngine(folder, **SMALL)
    with colocated_workers(folder, parallel, **SMALL) as workers:
        workers.encode(**INPUTS)
        workers.wait(*INPUTS)
        check_states(workers, plain)
        workers.states.clear()

        requests = [plain.request(array, [2], 6) for array in INPUTS.values()]
        for number, request in enumerate(requests):
            request.encoder = "encoder-0"
            (media,) = request.inputs
            workers.encode(**{media.key: media.payload, f"in-{number}": media.payload})
            workers.submit(request)
        keys = [request.inputs[0].key for request in requests]
        workers.wait(*INPUTS, *keys, *(request.id.number for request in requests))
        for key, name in zip(keys, INPUTS, strict=True):
            np.testing.assert_allclose(workers.states.pop(key), workers.states[name], atol=1e-5)
        check_states(workers, plain)
    alone = PlainEngine(folder, **SMALL)
    for array in INPUTS.values():
        alone.submit(alone.request(array, [2], 6))
    for number, end in alone.run().items():
        assert workers.ends[number].state is RequestState.DONE
        assert workers.ends[number].token_ids == end.token_ids
