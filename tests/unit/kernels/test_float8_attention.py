"""Attention in float8: the kernel in Triton's interpreter beside its form in torch, and what it
costs in accuracy."""

import numpy as np
import pytest
import torch
from attention_cases import FULL_LENGTHS, full_spec, plain_attention, poison_free_memory

pytest.importorskip("triton")

from rounded_float8 import convert

from antiphon.attention.backends.torch_sdpa import SdpaFull
from antiphon.attention.backends.triton import TritonFull
from antiphon.attention.interface import AttentionSpec, FullBatch
from antiphon.kernels.float8_attention import head_parts
from antiphon.kernels.formats import FLOAT8

LENGTHS = [*FULL_LENGTHS, [64, 1, 130], [63, 65]]
NEAR = 0.03  # of the largest value: one weight rounded elsewhere
COST = 0.08  # of the largest value, beside float64

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compiled there: see tests/gpu")


@pytest.fixture(autouse=True)
def nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triton.runtime.interpreter._convert_float", convert)


def problem(
    lengths: list[int], size: int, kv_heads: int = 2, dtype: torch.dtype = torch.float32
) -> tuple[AttentionSpec, list[torch.Tensor], FullBatch]:
    """Heads and blocks of very different sizes: each has a scale of its own."""
    torch.manual_seed(size)
    spec = full_spec(2, size, dtype, kv_heads=kv_heads, kv=FLOAT8)
    heads = [2, kv_heads, kv_heads]
    stacked = torch.randn(sum(lengths), sum(heads), size)
    stacked[:, 2 + kv_heads :] *= 10.0 ** torch.arange(kv_heads)[:, None]
    parts = list(stacked.to(dtype).split(heads, dim=1))
    return spec, parts, FullBatch.of(np.array(lengths), spec.device)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("size", [8, 64, 72, 80])
def test_the_kernel_is_its_reference(lengths: list[int], size: int) -> None:
    spec, (q, k, v), batch = problem(lengths, size)
    outputs = []
    for made in (SdpaFull(spec), TritonFull(spec)):
        metadata = made.plan(batch)
        poison_free_memory(q)
        outputs.append(made.run(q, k, v, metadata))
    assert outputs[1].isfinite().all()
    for head in range(2):
        largest = outputs[0][:, head].abs().max()
        assert (outputs[0] - outputs[1])[:, head].abs().max() <= NEAR * largest
    begin = 0
    for length in lengths:
        rows = slice(begin, begin := begin + length)
        exact = plain_attention(q[rows], k[rows], v[rows], spec.scale, None, 0, False)
        for head in range(2):
            largest = v[rows][:, head].abs().max()
            assert (outputs[1][rows] - exact)[:, head].abs().max() <= COST * largest


def test_grouped_heads_in_half_precision() -> None:
    spec, parts, batch = problem([30, 70], 64, kv_heads=1, dtype=torch.float16)
    expected = SdpaFull(spec).run(*parts, SdpaFull(spec).plan(batch))
    got = TritonFull(spec).run(*parts, TritonFull(spec).plan(batch))
    assert got.dtype == torch.float16
    assert (got - expected).abs().max() <= NEAR * expected.abs().max()


@pytest.mark.parametrize("backend", [SdpaFull, TritonFull])
def test_a_sequence_gives_the_same_in_any_batch(backend: type[SdpaFull] | type[TritonFull]) -> None:
    spec, parts, batch = problem([9, 70, 3], 80)
    together = backend(spec).run(*parts, backend(spec).plan(batch))
    own = [part[9:79] for part in parts]
    alone = FullBatch.of(np.array([70]), spec.device)
    torch.testing.assert_close(
        together[9:79], backend(spec).run(*own, backend(spec).plan(alone)), rtol=0, atol=1e-3
    )


def test_head_sizes_are_filled_up_to_what_tensor_cores_take() -> None:
    sizes = {8: (32, 0), 40: (64, 0), 64: (64, 0), 72: (64, 32), 80: (64, 32), 96: (64, 32)}
    sizes |= {112: (128, 0), 128: (128, 0), 160: (128, 32), 256: (256, 0)}
    assert {size: head_parts(size) for size in sizes} == sizes
