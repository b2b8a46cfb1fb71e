"""Rotary positions against transformers', and their place between projection and cache."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.rotary import Rotary
from antiphon.kv.pool import KVPool
from antiphon.layers.linear import StackedLinear
from antiphon.layers.linear_methods import SmallBatch
from antiphon.layers.quantization.kv_scales import (
    CachedProjections,
    ProjectionInput,
    fit_kv_scales,
)
from antiphon.layers.rotary import HeadNorms, RotaryTable, Rotation

SIZE = 24
POSITIONS = torch.tensor([0, 1, 7, 900, 4095])
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e4, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 256,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 5e4, "factor": 8.0,
    "original_max_position_embeddings": 512,
}  # fmt: skip


def rotation(rotary: Rotary) -> Rotation:
    angles: Rotation = RotaryTable(rotary, 4096)(POSITIONS)
    return angles


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_type": "default", "rope_theta": 1e4},
        {"rope_type": "linear", "rope_theta": 1e6, "factor": 4.0},
        {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 4.0},
        LLAMA3,
        YARN,
        {**YARN, "truncate": False, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.5},
        {**YARN, "mscale": 2.0, "mscale_all_dim": 0.5},
    ],
)
def test_queries_and_keys_turn_as_in_transformers(settings: dict[str, Any]) -> None:
    config = LlamaConfig(
        hidden_size=3 * SIZE, num_attention_heads=3, rope_parameters=settings,
        max_position_embeddings=4096,
    )  # fmt: skip
    q, k = torch.randn(len(POSITIONS), 3, SIZE), torch.randn(len(POSITIONS), 1, SIZE)
    cos, sin = LlamaRotaryEmbedding(config)(q, POSITIONS[None])
    wanted = apply_rotary_pos_emb(q[None], k[None], cos, sin, unsqueeze_dim=2)
    angles = rotation(Rotary.of(config.to_dict(), SIZE))
    for x, turned in zip((q, k), wanted, strict=True):
        torch.testing.assert_close(angles.apply(x), turned[0], atol=1e-3, rtol=1e-4)


def test_an_older_spelling_means_the_same() -> None:
    scaling = {name: value for name, value in LLAMA3.items() if name != "rope_theta"}
    older = {"rope_theta": 5e4, "rope_scaling": {"type": scaling.pop("rope_type"), **scaling}}
    assert Rotary.of(older, SIZE) == Rotary.of({"rope_parameters": LLAMA3}, SIZE)
    assert Rotary.of({}, SIZE) == Rotary(SIZE)


def test_a_kind_of_scaling_that_is_not_known_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="'longrope' are not supported, only default"):
        Rotary.of({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, SIZE)


def test_part_of_a_head_may_stay_as_it_is() -> None:
    rotary = Rotary.of({"partial_rotary_factor": 0.5}, SIZE)
    x = torch.randn(len(POSITIONS), 2, SIZE)
    turned = rotation(rotary).apply(x)
    assert torch.equal(turned[..., SIZE // 2 :], x[..., SIZE // 2 :])
    whole = rotation(Rotary(SIZE // 2)).apply(x[..., : SIZE // 2])
    assert torch.equal(turned[..., : SIZE // 2], whole)
    assert not torch.allclose(turned[1:, :, : SIZE // 2], x[1:, :, : SIZE // 2])


@pytest.mark.parametrize("small_batch", [False, True])
def test_keys_are_turned_before_they_are_cached(
    small_batch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With widths of queries and keys that differ; the fused kernel leaves rotations alone."""
    layer = StackedLinear(16, {"q": 3 * SIZE, "k": SIZE, "v": SIZE}, bias=True)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    pool = KVPool(1, 2, 8, 1, SIZE, torch.float32, torch.device("cpu"))
    x, angles = torch.randn(4, 16), Rotation(*torch.randn(2, 4, SIZE // 2))
    q, k, v = (part.unflatten(-1, (-1, SIZE)) for part in layer.split(x))
    if small_batch:
        method = SmallBatch(layer.method)
        monkeypatch.setattr(SmallBatch, "product", lambda _, *args: method.larger.product(*args))
        layer.method = method
    slots = torch.tensor([3, 12, 0, 5], dtype=torch.int32)
    queries = layer.queries(x, pool.destination(0, slots), angles)
    torch.testing.assert_close(queries, angles.apply(q))
    keys, values = pool.layers[0].flatten(1, 2)
    torch.testing.assert_close(keys[slots.long()], angles.apply(k))
    torch.testing.assert_close(values[slots.long()], v)


def test_turned_keys_stay_within_a_float8_cache() -> None:
    """Turning may move both coordinates of a plane into one, which is longer by up to sqrt(2)."""
    qkv = StackedLinear(4, dict.fromkeys("qkv", 4), bias=False)
    output = nn.Linear(4, 4)
    for growth in (1.0, 2**0.5):
        nn.init.constant_(qkv.weight, 1.0)
        qkv.tensors_of("k")[0].fill_(448.0 / 4 / 1.2)
        projections = CachedProjections(qkv, qkv, _Output(output), growth)  # type: ignore[arg-type]
        fit_kv_scales([(projections, ProjectionInput.of_norm(torch.ones(4), None))])
        largest = float(qkv.tensors_of("k")[0].sum(1).abs().max())
        assert largest * growth <= 448.0
        assert largest * 2 * growth > 448.0


def test_normed_keys_stay_within_a_float8_cache() -> None:
    """Their norm's gain makes them large, not their projection; scores stay what they were."""
    qkv, norms = StackedLinear(4, dict.fromkeys("qkv", 4), bias=False), HeadNorms(4, 1e-6)
    nn.init.normal_(qkv.weight)
    norms.q_norm.weight.data.fill_(2.0)
    norms.k_norm.weight.data.copy_(torch.tensor([1.0, -900.0, 3.0, 0.5]))
    q, k = torch.randn(2, 5, 1, 4)
    scores = torch.mul(*norms.norm(q, k)).sum(-1)
    projections = CachedProjections(qkv, qkv, _Output(nn.Linear(4, 4)), 1.5, norms)  # type: ignore[arg-type]
    fit_kv_scales([(projections, ProjectionInput.of_norm(torch.ones(4), None))])
    assert 448 / 2 < float(norms.k_norm.weight.abs().max()) * 2 * 1.5 <= 448
    torch.testing.assert_close(torch.mul(*norms.norm(q, k)).sum(-1), scores)


class _Output:
    """The output projection, as far as scaling asks."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer

    def scale_inputs(self, factor: float) -> None:
        self.layer.weight.data.mul_(factor)
