"""On a CUDA device: transformers' tokens in float32, and the engine through Ray in bfloat16."""

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from oracle import clips, mixed_inputs, oracle, specials, text_rules, texts
from plain_engine import PlainEngine

from antiphon import Engine
from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.encoder.graphs import NoGraph

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", [name for name in tiny_models.FAMILIES if name != "whisper"])
def test_tokens_equal_transformers(name: str, checkpoints) -> None:
    folder, model = checkpoints(name)
    engine = PlainEngine(
        folder,
        device="cuda",
        dtype="float32",
        max_num_seqs=16,
        max_model_len=100,
        kv_cache_memory_gib=1,
    )
    start = model.generation_config.decoder_start_token_id
    inputs = mixed_inputs(24, model.config.vocab_size, seed=11)
    for ids, max_new in inputs:
        engine.submit(engine.request(ids, [start], max_new, text_rules(model)))
    finished = engine.run()
    for i, (ids, max_new) in enumerate(inputs):
        tokens, logprobs = oracle(
            model, torch.tensor(ids[None], dtype=torch.long), [start], max_new
        )
        assert finished[i].token_ids == tokens, f"request {i}"
        np.testing.assert_allclose(
            [token.logprobs[0] for token in finished[i].logprobs], logprobs, atol=2e-3, rtol=1e-3
        )


def test_whisper_tokens_equal_the_cpu(checkpoints) -> None:
    folder, _ = checkpoints("whisper")
    results = []
    for device in ("cpu", "cuda"):
        engine = PlainEngine(
            folder, device=device, dtype="float32", max_num_seqs=8, kv_cache_memory_gib=1
        )
        for i, clip in enumerate(clips(16, engine.model.audio.window)):
            prompt = (
                [61, 63, 65, 66] if i % 3 else [*range(3, 20), 61, 63, 65, 66]
            )  # some with earlier text: graphs of their own
            engine.submit(engine.request(clip, prompt, 30, DecodingRules(stop_ids=(60,))))
        results.append({id_: end.token_ids for id_, end in engine.run().items()})
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["m2m100", "bart", "t5"])
def test_special_ids_inside_sequences_equal_the_cpu(name: str, checkpoints) -> None:
    """Padding takes no position in M2M-100; the device counts, in graphs and rounds of steps."""
    folder, model = checkpoints(name)
    params, results = SamplingParams(logit_bias=dict.fromkeys(specials(model), 6.0)), []
    for options in (
        {"device": "cpu"},
        {"device": "cuda", "kv_cache_memory_gib": 1, "num_scheduler_steps": 3},
    ):
        engine = PlainEngine(folder, dtype="float32", max_num_seqs=8, max_model_len=64, **options)
        for ids, prompt, length in texts(model, prompt=9, seed=6):
            engine.submit(engine.request(ids, prompt, length, DecodingRules(), params=params))
            engine.step()
        results.append({id_: end.token_ids for id_, end in engine.run().items()})
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["bart", "t5"])
@pytest.mark.parametrize("encoder", ["triton", "torch_sdpa"])
def test_tokens_are_the_same_with_and_without_graphs(name: str, encoder: str, checkpoints) -> None:
    folder, model = checkpoints(name)
    start, results = model.generation_config.decoder_start_token_id, []
    eager: list[dict[str, Any]] = [
        {"enforce_eager": True},
        {"decoder_attention_backend": "torch_sdpa"},
    ]
    for options in ({}, {"num_scheduler_steps": 4}, *eager):
        engine = PlainEngine(
            folder,
            device="cuda",
            dtype="float32",
            max_num_seqs=12,
            max_model_len=100,
            kv_cache_memory_gib=1,
            encoder_attention_backend=encoder,
            **options,
        )
        assert (engine.replica.runner.graphs is None) == (options in eager)
        assert isinstance(engine.encoder.graphs, NoGraph) == (
            "enforce_eager" in options or encoder != "triton"
        )
        for ids, max_new in mixed_inputs(24, model.config.vocab_size, seed=12):
            engine.submit(engine.request(ids, [start], max_new, text_rules(model)))
        results.append({id_: end.token_ids for id_, end in engine.run().items()})
    assert all(result == results[0] for result in results[1:])


def test_ten_thousand_steps_take_no_memory(checkpoints) -> None:
    folder, model = checkpoints("bart")
    engine = PlainEngine(
        folder,
        device="cuda",
        dtype="float32",
        max_num_seqs=4,
        max_model_len=100,
        kv_cache_memory_gib=1,
    )
    rng = np.random.default_rng(0)

    def run(count: int) -> int:
        before = engine.replica.scheduler.counters["steps"]
        for _ in range(count):
            ids = rng.integers(3, model.config.vocab_size, 9).astype(np.int32)
            engine.submit(engine.request(ids, [2], 90, params=SamplingParams(ignore_eos=True)))
        engine.run()
        torch.cuda.synchronize()
        return engine.replica.scheduler.counters["steps"] - before

    run(40)
    memory, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    assert run(460) > 10_000
    assert torch.cuda.memory_allocated() <= memory + 1024
    blocks = 4 * (2 << 20)  # the allocator takes 2 MiB at a time, and may split them anew
    assert torch.cuda.memory_reserved() <= reserved + blocks


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_shipped_t5_through_ray(dtype: str, t5_folder: Path, ray_cluster: None) -> None:
    sys.path.insert(0, str(t5_folder.parent))
    import train

    numbers = [train.draw(random.Random(i)) for i in range(300)]
    with Engine(str(t5_folder), dtype=dtype, kv_cache_memory_gib=2) as engine:
        assert engine.workers.info["decoder"]["device"] == "cuda"
        outputs = engine.generate([f"in words: {number}" for number in numbers], use_tqdm=False)
    right = sum(
        output.outputs[0].text == train.in_words(number)
        for output, number in zip(outputs, numbers, strict=True)
    )
    assert right >= 0.98 * len(numbers)
