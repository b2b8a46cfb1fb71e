"""Steps in graphs, with a stand-in for their capture: padding, replays and the choice of a graph do
not change any token. Captured they are on a GPU only: see tests/gpu."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine
from prompt_states import STATES, StatesEngine, make_states, run_with_states
from rerun_capture import Rerun
from sampled_requests import check_same
from sampling_steps import greedy_by_kernels
from tiny_decoders import make_decoder

pytest.importorskip("triton")

from antiphon.attention.backends.triton import TritonPaged
from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.decoder import runner as decoder_runner
from antiphon.decoder import step_attention
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.runtime import graphs as runtime_graphs
from antiphon.scheduler.request import Finished

OPTIONS = {"max_num_seqs": 2, "max_model_len": 16, "max_encoder_len": 8, "kv_page_size": 16}


ASKING = [
    SamplingParams(logprobs=0),
    SamplingParams(logprobs=1, repetition_penalty=1.2),
    SamplingParams(temperature=1.0),
    SamplingParams(logit_bias={30: 5.0}),
]


def run(engine: PlainEngine) -> list[Finished]:
    has_encoder = engine.encoder is not None
    for i, params in enumerate(ASKING):
        ids = np.arange(5, 8 + i, dtype=np.int32) if has_encoder else None
        rules = DecodingRules(min_tokens=2, stop_ids=(1,))
        engine.submit(engine.request(ids, [0, 4], 4 + i, rules, params=params, seed=7))
    return [end for _, end in sorted(engine.run().items())]


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Once called: engines that are made later run their steps in graphs."""
    if torch.cuda.is_available():
        pytest.skip("captured for real there: see tests/gpu")

    def capture() -> None:
        monkeypatch.setattr(
            step_attention,
            "select_paged",
            lambda half, name, specs: [TritonPaged(spec) for spec in specs],
        )
        monkeypatch.setattr(decoder_runner, "uncapturable", lambda backend: None)
        monkeypatch.setattr(decoder_runner.DecoderRunner, "_uses_graphs", True)
        monkeypatch.setattr(runtime_graphs, "GraphCapture", Rerun)
        monkeypatch.setattr(Sampler, "greedy", greedy_by_kernels)

    return capture


@pytest.mark.parametrize("name", ["t5", pytest.param("llama", marks=pytest.mark.slow)])
def test_steps_in_graphs_give_the_same_tokens(
    name: str, checkpoints: Any, tmp_path: Path, captured: Callable[[], None]
) -> None:
    folder, options = tmp_path, OPTIONS
    if name == "llama":  # a decoder alone, whose heads share their keys
        make_decoder(name, folder)
        options = {name: value for name, value in OPTIONS.items() if name != "max_encoder_len"}
    else:
        folder, _ = checkpoints(name)
    expected = run(PlainEngine(folder, **options))
    captured()
    engine = PlainEngine(folder, warm=True, **options)
    runner = engine.replica.runner
    assert runner.graphs is not None
    assert (runner.cross_kv.graphs is not None) == (name == "t5")
    assert not runner.eager_steps, "those of warming up do not count"
    for actual, wanted in zip(run(engine), expected, strict=True):
        check_same(actual, wanted)
    assert not runner.eager_steps, "a row that draws throws no step out of its graph"


def test_prompts_with_hidden_states_run_in_graphs(
    tmp_path: Path, captured: Callable[[], None]
) -> None:
    """With a budget that cuts prompts, so that one token of them is all that a step computes."""
    states = make_states(make_decoder("llama", tmp_path), STATES)
    options = {name: value for name, value in OPTIONS.items() if name != "max_encoder_len"}
    options["max_num_batched_tokens"] = 5
    expected = run_with_states(StatesEngine(tmp_path, states, **options))
    captured()
    engine = StatesEngine(tmp_path, states, warm=True, **options)
    for actual, wanted in zip(run_with_states(engine), expected, strict=True):
        check_same(actual, wanted)
    assert engine.replica.runner.graphs is not None
    assert not engine.replica.runner.eager_steps
