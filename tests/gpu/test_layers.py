"""On a CUDA device: the Triton kernels between attention, against the code for CPUs.

python -m pytest -m gpu tests/gpu/test_layers.py
"""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from kernel_checks import check_copied_pages, check_projecting, check_small_batch
from torch import nn
from torch.nn import functional as F

from antiphon.kv.pool import KVPool
from antiphon.layers.activations import KINDS, Activation, FusedActivation
from antiphon.layers.linear import Linear
from antiphon.layers.linear_methods import SmallBatch, SplitKProduct
from antiphon.layers.norms import FusedNorm, LayerNorm, RMSNorm
from antiphon.layers.padding import pad_features
from antiphon.layers.prepare import fuse_small_batches
from antiphon.layers.quantization.float8 import Float8Activation, Float8Norm, to_float8
from antiphon.layers.quantization.int8 import to_int8
from antiphon.layers.quantization.rows import QuantizedRows
from antiphon.layers.residual import Residual, SplitK
from antiphon.layers.rotary import Rotation
from antiphon.runtime.device import Target

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
FLOAT8 = torch.float8_e4m3fn


def values(x: Any) -> torch.Tensor:
    return (x.values.float() * x.scales if isinstance(x, QuantizedRows) else x.float()).cpu()


@pytest.mark.parametrize(
    "make", [lambda: LayerNorm(1280), lambda: RMSNorm(1280, 1e-6), lambda: LayerNorm(48)]
)
@pytest.mark.parametrize("quantizes", [False, True])
@pytest.mark.parametrize("with_delta", [False, True])
def test_the_norm_of_a_sum(make: Any, quantizes: bool, with_delta: bool) -> None:
    norm = make().bfloat16()
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter, mean=1.0)
    size = norm.weight.shape[0]
    x, delta = torch.randn(2, 77, size).bfloat16()
    wanted, total = norm(Residual(x, delta if with_delta else None))
    norm.cuda().method = Float8Norm() if quantizes else FusedNorm()
    actual, on_gpu = norm(Residual(x.cuda(), delta.cuda() if with_delta else None))
    assert torch.equal(on_gpu.x.cpu(), total.x)
    assert isinstance(actual, QuantizedRows) == quantizes
    torch.testing.assert_close(
        values(actual), wanted.float(), atol=3e-2, rtol=7e-2 if quantizes else 2e-2
    )


@pytest.mark.parametrize("rows", [5, 64, 256])
@pytest.mark.parametrize(("inputs", "outputs", "bias"), [(5120, 1280, True), (5120, 2048, False)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_product_of_many_inputs_is_summed_by_the_norm_behind_it(
    rows: int, inputs: int, outputs: int, bias: bool, dtype: torch.dtype
) -> None:
    """Against the layer and the norm as they are on a CPU, in float32."""
    layer, norm = Linear(inputs, outputs, bias), LayerNorm(outputs)
    torch.nn.init.normal_(layer.weight, std=0.05)
    for parameter in (*norm.parameters(), *(() if layer.bias is None else (layer.bias,))):
        torch.nn.init.normal_(parameter, mean=1.0)
    model = nn.ModuleList([layer, norm]).to(dtype).cuda()
    x, before = torch.randn(rows, inputs).to(dtype), torch.randn(rows, outputs).to(dtype)
    norm.method = FusedNorm()
    fuse_small_batches(model, Target(torch.device("cuda"), dtype))
    assert isinstance(layer.method, SmallBatch)
    assert isinstance(layer.method.larger, SplitKProduct)
    residual = layer.add_to(Residual(before.cuda()), x.cuda())
    assert isinstance(residual.pending, SplitK)
    actual = norm.of_sum(residual)
    model.cpu().float()
    total = before.float() + F.linear(x.float(), layer.weight, layer.bias)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 3e-3
    torch.testing.assert_close(
        actual.float().cpu(), norm.in_torch(total), atol=2 * tolerance, rtol=tolerance
    )


@pytest.mark.parametrize("name", sorted(KINDS))
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("quantizes", [False, True])
def test_activations(name: str, gated: bool, quantizes: bool) -> None:
    both = (torch.randn(33, 2 * 5120) * 3).bfloat16()
    x, gate = both[:, :5120], both[:, 5120:] if gated else None
    layer = Activation(name)
    wanted = layer(x, gate)
    layer.method = Float8Activation() if quantizes else FusedActivation()
    on_gpu = both.cuda()
    actual = layer(on_gpu[:, :5120], on_gpu[:, 5120:] if gated else None)
    torch.testing.assert_close(
        values(actual),
        wanted.float(),
        atol=6e-2 if quantizes else 1e-2,
        rtol=7e-2 if quantizes else 2e-2,
    )


@pytest.mark.parametrize("tokens", [1, 16, 300])
def test_a_float8_layer(tokens: int) -> None:
    layer = Linear(1280, 640)
    torch.nn.init.normal_(layer.weight, std=0.05)
    torch.nn.init.normal_(layer.bias)
    layer.bfloat16()
    on_gpu = copy.deepcopy(layer).cuda()
    to_float8(layer)
    to_float8(on_gpu)
    x = torch.randn(tokens, 1280).bfloat16()
    wanted = layer(x).float()
    for features in (x.cuda(), QuantizedRows.float8(x.cuda())):
        actual = on_gpu(features).float().cpu()
        assert (actual - wanted).norm() / wanted.norm() < 0.01


@pytest.mark.parametrize("tokens", [1, 3, 4, 5, 300])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_an_int8_layer(tokens: int, dtype: torch.dtype) -> None:
    """Only the weight is int8: few rows in our kernel, more through a weight multiplied out."""
    layers = nn.ModuleList([Linear(1280, 640)]).to(dtype)
    layer = layers[0]
    nn.init.normal_(layer.weight, std=0.05)
    nn.init.normal_(layer.bias)
    x, before = torch.randn(tokens, 1280).to(dtype), layer.weight.data.float()
    bias = layer.bias.float().clone()  # the layer moves its own to the device
    layers.cuda()
    to_int8(layer)
    fuse_small_batches(layers, Target(torch.device("cuda"), dtype))
    stored = (layer.weight.float() * layer.weight_scale.float()).cpu()
    assert (stored - before).norm() / before.norm() < 0.01
    wanted = x.float() @ stored.t() + bias
    assert isinstance(layer.method, SmallBatch) == (dtype != torch.float32)
    actual = layer(x.cuda()).float().cpu()
    assert (actual - wanted).norm() / wanted.norm() < {
        torch.float16: 1e-3,
        torch.bfloat16: 6e-3,
        torch.float32: 1e-5,
    }[dtype]


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("norm", "sizes", "activation"),
    [
        (None, (1280, 1280), None),
        (lambda: LayerNorm(1280), (1280, 3840), None),
        (lambda: LayerNorm(1280), (1280, 5120), "gelu"),
        (None, (5120, 1280), None),
        (lambda: RMSNorm(2048, 1e-6), (2048, 6144), "relu"),
        (lambda: LayerNorm(384), (384, 1536), "gelu_new"),
    ],
)
def test_linear_layers_of_a_small_batch(
    rows: int, dtype: torch.dtype, norm: Any, sizes: tuple[int, int], activation: str | None
) -> None:
    check_small_batch(rows, norm and norm(), sizes, activation, "cuda", dtype)


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_keys_and_values_of_a_small_batch_go_into_pages(
    rows: int, fp8: bool, dtype: torch.dtype, kv_heads: int
) -> None:
    check_projecting(rows, FLOAT8 if fp8 else dtype, dtype, "cuda", kv_heads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, FLOAT8])
def test_writing_pages(dtype: torch.dtype) -> None:
    pools = [KVPool(1, 9, 16, 20, 64, dtype, torch.device(device)) for device in ("cpu", "cuda")]
    _, k, v = (torch.randn(50, 60, 64) * 300).split(20, dim=1)
    slots = torch.randperm(9 * 16)[:50].int()
    for pool in pools:
        device = pool.layers[0].device
        pool.write(0, slots.to(device), k.to(device), v.to(device))
    assert torch.equal(pools[0].layers[0].float(), pools[1].layers[0].float().cpu())


def test_capturing_waits_for_what_the_work_reads() -> None:
    """Ids still being made on another stream must not be read: they would index past a table."""
    from antiphon.runtime.graphs import GraphCapture

    table, out = torch.arange(64.0, device="cuda")[:, None], torch.empty(2048, 1, device="cuda")
    ids = torch.full((2048,), 1 << 40, device="cuda")
    model = nn.Module()
    model.layers = nn.ModuleList()
    torch.cuda.synchronize()
    torch.cuda._sleep(200_000_000)
    ids.copy_(torch.arange(2048, device="cuda") % 64)
    captured = GraphCapture(torch.device("cuda"), model).capture_all(
        [2048], lambda size: (None, lambda: out.copy_(table[ids[:size]]))
    )
    captured[2048].graph.replay()
    torch.cuda.synchronize()
    assert out[:, 0].tolist() == ids.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("heads", "kv_heads", "dim", "planes"), [(16, 16, 80, 40), (28, 4, 24, 8)])
def test_queries_and_keys_turn_as_in_torch(
    dtype: torch.dtype, heads: int, kv_heads: int, dim: int, planes: int
) -> None:
    """Every number, in any dtype: nothing is fused that torch rounds in between."""
    buffer = torch.randn(77, (heads + 2 * kv_heads) * dim, device="cuda").to(dtype)
    q, k, _ = buffer.split([heads * dim, kv_heads * dim, kv_heads * dim], dim=-1)
    q, k = q.unflatten(-1, (heads, dim)), k.unflatten(-1, (kv_heads, dim))
    angles = Rotation(*torch.randn(2, 77, planes, device="cuda"))
    for actual, x in zip(angles.turn(q, k), (q, k), strict=True):
        assert torch.equal(actual, angles.apply(x))


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("width", [3420, 1708])
def test_odd_widths_are_padded(width: int, quantized: bool) -> None:
    """In float8, too, which has no products of such widths."""
    layer = nn.Module()
    layer.fc1, layer.fc2 = Linear(1280, width), Linear(width, 1280)
    layer.activation = Activation("silu")
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.02)
    x = torch.randn(77, 1280)
    wanted = layer.fc2(layer.activation(layer.fc1(x)))
    layer.to("cuda", torch.bfloat16)
    pad_features(layer, Target(torch.device("cuda"), torch.bfloat16))
    if quantized:
        to_float8(layer.fc1)
        to_float8(layer.fc2)
    actual = layer.fc2(layer.activation(layer.fc1(x.cuda().bfloat16()))).float().cpu()
    assert (actual - wanted).norm() <= (0.08 if quantized else 0.01) * wanted.norm()


@pytest.mark.parametrize("count", [1, 50, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, FLOAT8])
@pytest.mark.parametrize("head_dim", [1, 64])
def test_pages_are_copied_as_they_were(dtype: torch.dtype, count: int, head_dim: int) -> None:
    """Where pages are among both; more than the kernel takes, and rows of odd widths, too."""
    rng = np.random.default_rng(count)
    sources, targets = rng.integers(0, 300, count), rng.permutation(300)[:count]
    check_copied_pages(dtype, head_dim, torch.device("cuda"), sources, targets)
