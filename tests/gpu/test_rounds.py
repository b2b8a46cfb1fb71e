"""On a CUDA device, Whisper large-v3's shapes: rounds of several steps, and more masks than a
graph was captured with.

python -m pytest -m gpu tests/gpu/test_rounds.py
"""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.sampling.sampler import Sampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SEQUENCES, STEPS = 64, 60
# Greedy decoding by random weights repeats itself; a draw from their nearly even distribution shows
# any change of a logit.
DRAWN = SamplingParams(temperature=1.0)


@pytest.fixture(scope="module")
def large_v3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Descriptions only: the weights are random."""
    from transformers import WhisperConfig, WhisperFeatureExtractor

    folder = tmp_path_factory.mktemp("large-v3")
    config = WhisperConfig(
        vocab_size=51866,
        num_mel_bins=128,
        d_model=1280,
        encoder_layers=32,
        decoder_layers=32,
        encoder_attention_heads=20,
        decoder_attention_heads=20,
        encoder_ffn_dim=5120,
        decoder_ffn_dim=5120,
        max_source_positions=1500,
        max_target_positions=448,
        architectures=["WhisperForConditionalGeneration"],
    )
    config.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=128).save_pretrained(folder)
    return folder


def make(folder: Path, device: str = "cuda", **options: Any) -> PlainEngine:
    """The same random weights each time."""
    torch.manual_seed(0)
    dtype = "bfloat16" if device == "cuda" else "float32"
    return PlainEngine(
        folder,
        device=device,
        dtype=dtype,
        load_format="dummy",
        max_num_seqs=SEQUENCES,
        max_encoder_batch_tokens=6000,
        num_kv_pages=1000,
        **options,
    )


def run(engine: PlainEngine, params: list[SamplingParams]) -> list[list[int]]:
    """Tokens of 64 sequences that all begin in one step, so that every step has the same rows
    however many make a round."""
    rng = np.random.default_rng(1)
    clips = [(rng.standard_normal(16_000 * 5) * 0.1).astype(np.float32) for _ in range(4)]
    ids = []
    for i, own_params in enumerate(params):
        prompt = [50258, 50259 + i, 50360, 50364]
        ids.append(
            engine.submit(
                engine.request(
                    clips[i % 4], prompt, STEPS - i % 7, DecodingRules(), params=own_params, seed=i
                )
            )
        )
    finished = engine.run()
    return [finished[id_].token_ids for id_ in ids]


def test_rounds_of_any_length_give_the_same_tokens(large_v3: Path) -> None:
    """The device takes longer for a step than the host: buffers come round while their copies
    still wait in line."""
    params, results = [DRAWN] * SEQUENCES, {}
    for steps in range(1, 9):
        engine = make(large_v3, num_scheduler_steps=steps)
        results[steps] = run(engine, params)
        assert len(engine.replica.runner.inputs._hosts) == steps + 2
        del engine
        gc.collect()  # a GPU is shared by several processes of tests
        torch.cuda.empty_cache()
    assert len({token for tokens in results[1] for token in tokens}) > 50, (
        "the random model repeats itself"
    )
    assert all(result == results[1] for result in results.values())


def test_a_buffer_whose_copy_still_waits_is_waited_for(large_v3: Path) -> None:
    """With too few buffers for the rounds in flight the host must wait, and the tokens are the
    same."""
    params = [DRAWN] * SEQUENCES
    wanted = run(make(large_v3), params)
    engine = make(large_v3, num_scheduler_steps=4)
    inputs = engine.replica.runner.inputs
    inputs._hosts, inputs._copied, inputs._current = inputs._hosts[:2], inputs._copied[:2], 0
    assert run(engine, params) == wanted
    assert inputs.waits > 0


def test_masks_of_every_sequence_stay_in_graphs(
    large_v3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 masks at once, where 16 rows made a table once: all from graphs, and as without them."""
    params = [
        SamplingParams(logit_bias={50 + i: 30.0, 9000 + 7 * i: 25.0}) for i in range(SEQUENCES)
    ]
    engine = make(large_v3)
    chosen_again = []
    with monkeypatch.context() as patches:
        patches.setattr(Sampler, "_resampled", lambda *args: chosen_again.append(args))
        samples = run(engine, params)
    assert not engine.replica.runner.eager_steps
    assert not chosen_again, "a step was sampled outside graphs"
    assert run(make(large_v3, enforce_eager=True), params) == samples
    assert len({tuple(tokens) for tokens in samples}) == SEQUENCES
