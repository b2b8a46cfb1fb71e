"""On a CUDA device: tokens are said when a CPU says so, and words cost no step its graph.

python -m pytest -m gpu tests/gpu/test_alignment.py
"""

from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine

from antiphon.scheduler.alignment import Alignment
from antiphon.scheduler.request import Finished

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PROMPT = [61, 62, 65, 66]


def play(engine: PlainEngine) -> list[Finished]:
    """More clips than slots, of which every second one is aligned."""
    rng, ids = np.random.default_rng(4), []
    for i in range(24):
        clip = (rng.standard_normal(12_000) * 0.1).astype(np.float32)
        alignment = Alignment(0, len(PROMPT), 37) if i % 2 else None
        ids.append(engine.submit(engine.request(clip, PROMPT, 6 + i, alignment=alignment)))
    ends = engine.run()
    return [ends[id_] for id_ in ids]


@pytest.mark.parametrize("options", [{}, {"num_scheduler_steps": 3}, {"enforce_eager": True}])
def test_frames_are_those_of_a_cpu(checkpoints: Any, options: dict[str, Any]) -> None:
    folder, _ = checkpoints("whisper")
    shared: dict[str, Any] = {"max_num_seqs": 8, "dtype": "float32"}
    on_device = PlainEngine(folder, device="cuda", **shared, **options)
    ends, wanted = play(on_device), play(PlainEngine(folder, device="cpu", **shared))
    assert not on_device.replica.runner.eager_steps
    same = 0
    for end, want in zip(ends, wanted, strict=True):
        assert end.token_ids == want.token_ids
        if want.frames is None:
            assert end.frames is None
        else:
            assert end.frames is not None
            same += end.frames == want.frames
    assert same >= 11, "rounding may lead one path in a dozen another way"
