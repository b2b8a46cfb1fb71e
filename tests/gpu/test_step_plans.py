"""On a CUDA device: long prompts stay in graphs, and forks and readouts are those of a CPU.

python -m pytest -m gpu tests/gpu/test_step_plans.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine
from tiny_models import WHISPER_SHAPE
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.generated import Readout
from antiphon.scheduler.request import Finished, RequestState

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

RULES = DecodingRules(stop_ids=(1,))
OPTIONS: dict[str, Any] = {"max_num_seqs": 8, "num_kv_pages": 600, "dtype": "float32"}
PROMPTS = (1, 400, 3, 300, 256, 257, 40, 399, 17, 2)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With as many positions as the published ones: in its windows much earlier text may stand."""
    folder = tmp_path_factory.mktemp("whisper")
    torch.manual_seed(5)
    config = WhisperConfig(**{**WHISPER_SHAPE, "max_target_positions": 448})
    WhisperForConditionalGeneration(config).eval().save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80, chunk_length=1).save_pretrained(folder)
    return folder


def run_prompts(engine: PlainEngine) -> list[Finished]:
    rng = np.random.default_rng(2)
    ids = []
    for i, length in enumerate(PROMPTS):
        clip = (rng.standard_normal(12_000) * 0.1).astype(np.float32)
        prompt = [61, *rng.integers(3, 60, length - 1).tolist()]
        readouts = tuple(Readout(position, 5) for position in (0, length // 2, length - 1))
        request = engine.request(clip, prompt, 20, RULES, seed=i, readouts=readouts)
        ids.append(engine.submit(request))
    finished = engine.run()
    return [finished[id_] for id_ in ids]


@pytest.mark.parametrize("depth", [1, 2, 8])
def test_long_prompts_stay_in_graphs(whisper: Path, depth: int) -> None:
    on_device = PlainEngine(whisper, device="cuda", num_scheduler_steps=depth, **OPTIONS)
    on_cpu = PlainEngine(whisper, device="cpu", **OPTIONS)
    ends, wanted = run_prompts(on_device), run_prompts(on_cpu)
    assert on_device.replica.runner.graphs is not None
    assert not on_device.replica.runner.eager_steps
    for end, want in zip(ends, wanted, strict=True):
        assert end.token_ids == want.token_ids
        assert sorted(end.readout_values) == [0, 1, 2]
        for index, value in want.readout_values.items():
            assert end.readout_values[index].likeliest == value.likeliest
            assert end.readout_values[index].logprob == pytest.approx(value.logprob, abs=2e-3)


def test_forks_go_on_as_their_parents_do(checkpoints: Any) -> None:
    """With other sequences beside them, in whose pages nothing may end up."""
    lengths = {"max_model_len": 448, "max_encoder_len": 16, "num_scheduler_steps": 3}
    engine = PlainEngine(checkpoints("t5")[0], device="cuda", **lengths, **OPTIONS)
    drawn = SamplingParams(temperature=3.0)
    source = np.arange(5, 15, dtype=np.int32)

    def request(seed: int, **fields: Any) -> Any:
        return engine.request(
            source, [0, 7, 9], 60, DecodingRules(), params=drawn, seed=seed, **fields
        )

    parent, beside = request(1), request(9)
    for one in (parent, beside):
        engine.submit(one)
    scheduler = engine.replica.scheduler
    while parent.slot < 0 or scheduler.batch.length[parent.slot] < 30:
        engine.step()
    twin, other = request(1), request(2)
    for child in (twin, other):
        scheduler.fork(parent, child)
        assert child.state is RequestState.RUNNING
    prefix = list(other.generated)
    finished = engine.run()
    assert finished[twin.id.number].token_ids == finished[parent.id.number].token_ids
    again = [request(9), request(2, generated=list(prefix))]
    for one in again:
        engine.submit(one)
    finished = engine.run()
    for one, before in zip(again, (beside, other), strict=True):
        assert finished[one.id.number].token_ids == finished[before.id.number].token_ids
