"""The range of a float8 cache: keys and values are brought into it, and nothing else changes."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from covering import covering
from oracle import mixed_inputs
from plain_engine import PlainEngine
from safetensors.torch import load_file, save_file

from antiphon.kernels.formats import FLOAT8_MAX
from antiphon.layers.checkpoint import Checkpoint
from antiphon.layers.linear import StackedLinear
from antiphon.layers.quantization.kv_scales import ProjectionInput, fit_kv_scales, power_of_two

QUICK = ("bart", "bart_scaled", "t5_gated_untied", "whisper")
FLOAT8_KV = {"kv_cache_dtype": "fp8", "decoder_attention_backend": "torch_sdpa"}


PARTS = {"whisper": ("q_proj", "k_proj", "v_proj", "out_proj"), "t5": ("q", "k", "v", "o")}


def requests(engine: PlainEngine, name: str, vocab: int) -> dict[int, Any]:
    """The ends of twelve requests."""
    rng = np.random.default_rng(5)
    if name == "whisper":
        inputs = [
            (rng.standard_normal(int(n)).astype(np.float32) * 0.1, 30)
            for n in rng.integers(500, 16000, 12)
        ]
    else:
        inputs = mixed_inputs(12, vocab, seed=5)
    for payload, max_new in inputs:
        engine.submit(engine.request(payload, [2], max_new))
    return engine.run()


def answers(ends: dict[int, Any]) -> list[tuple[list[int], list[float]]]:
    return [
        (end.token_ids, [float(token.logprobs[0]) for token in end.logprobs])
        for _, end in sorted(ends.items())
    ]


def written(engine: PlainEngine) -> torch.Tensor:
    """The largest key and value of each layer's pages [layers, 2]."""
    return torch.stack(
        [layer.abs().amax((1, 2, 3, 4)) for layer in engine.replica.runner.pool.layers]
    )


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in tiny_models.FAMILIES
    ],
)
def test_fitted_projections_change_nothing_but_the_range(name: str, checkpoints: Any) -> None:
    folder, model = checkpoints(name)
    options = {
        "max_num_seqs": 16,
        "max_model_len": 80,
        "kv_page_size": 8,
        "decoder_attention_backend": "torch_sdpa",
    }
    plain, fitted = (PlainEngine(folder, **options) for _ in range(2))
    decoder, device = fitted.replica.runner.model, fitted.replica.runner.device
    states = ProjectionInput.of_encoder(fitted.model.encoder, Checkpoint(folder), device)
    fit_kv_scales(decoder.self_projections())
    fit_kv_scales((projections, states) for projections in decoder.cross_projections())
    vocab = model.config.vocab_size
    assert answers(requests(plain, name, vocab)) == answers(
        requests(fitted, name, vocab)
    )  # to the last bit
    largest = written(fitted)
    assert (largest <= FLOAT8_MAX).all()
    assert (largest > FLOAT8_MAX / 64).all(), "most of the range lies idle"
    assert not torch.equal(written(plain), largest)


@covering(ways=1, name=list(PARTS), doublings=[-14, 9])
def test_a_model_with_keys_and_values_of_any_size(
    name: str, doublings: int, checkpoints: Any, tmp_path: Path
) -> None:
    """Keys and values leave float8's range, queries and outputs make up for it: same answers."""
    (folder, model), parts = checkpoints(name), PARTS[name]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(folder / "model.safetensors")
    factors = dict(
        zip(parts, (2.0**-doublings, 2.0**doublings, 2.0**doublings, 2.0**-doublings), strict=True)
    )
    for key, tensor in weights.items():
        kind, part, tail = key.split(".")[0:2], key.split(".")[-2], key.split(".")[-1]
        if (
            "decoder" in kind
            and part in factors
            and ("attn" in key or "Attention" in key)
            and (part, tail) != (parts[3], "bias")
        ):
            weights[key] = tensor * factors[part]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    vocab = model.config.vocab_size
    same, scaled = (
        PlainEngine(path, max_num_seqs=16, max_model_len=80, **FLOAT8_KV)
        for path in (folder, tmp_path)
    )
    assert answers(requests(same, name, vocab)) == answers(requests(scaled, name, vocab))


def test_a_model_of_zeros_is_left_alone() -> None:
    layer = StackedLinear(8, {"k": 8, "v": 8}, bias=True)
    torch.nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    assert power_of_two(layer, "k", ProjectionInput.of_norm(torch.ones(8), None)) == 1.0


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 2.0**27), (torch.float16, 2.0**6)])
def test_half_precision_weights_stay_in_their_own_range(dtype: torch.dtype, factor: float) -> None:
    layer = StackedLinear(4, {"k": 4, "v": 4}, bias=False).to(dtype)
    torch.nn.init.constant_(layer.weight, 2.0**-21)  # type: ignore[arg-type]
    assert (
        power_of_two(layer, "k", ProjectionInput.of_norm(torch.ones(4), None)) == factor
    )  # 448 / (2 * 2 * 2^-21) is 2^27.8
