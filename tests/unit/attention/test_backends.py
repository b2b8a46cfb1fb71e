"""Every backend that runs on a CPU, against plain float64 attention."""

from typing import Any

import numpy as np
import pytest
import torch
from attention_cases import (
    FULL_LENGTHS,
    PAGED_LENGTHS,
    check_full,
    check_paged,
    full_spec,
    make_bias,
    paged_spec,
)

from antiphon.attention.backends.flex import FlexFull, padded_size
from antiphon.attention.interface import PagedBatch
from antiphon.attention.registry import BACKENDS
from antiphon.attention.selection import select_full, select_paged

CPU = torch.device("cpu")
FLOAT8 = torch.float8_e4m3fn
SIZES = [8, 64, 72, 80, 128]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lengths", FULL_LENGTHS)
def test_full_attention(dtype: torch.dtype, size: int, bias: bool, lengths: list[int]) -> None:
    check_full(select_full("encoder", "torch_sdpa", full_spec(3, size, dtype, bias)), lengths)


PAGED = [
    (name, dtype)
    for name, row in BACKENDS.items()
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
    if (support := row.support("causal"))
    and str(dtype).removeprefix("torch.") in support.dtypes
    and "cpu" in support.devices
]


@pytest.mark.parametrize(("name", "dtype"), PAGED)
@pytest.mark.parametrize(("kind", "bias"), [("causal", False), ("causal", True), ("cross", False)])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("query_lens", "kv_lens"), PAGED_LENGTHS)
def test_paged_attention(
    name: str,
    dtype: torch.dtype,
    kind: Any,
    bias: bool,
    size: int,
    query_lens: list[int],
    kv_lens: list[int],
) -> None:
    check_paged(
        select_paged("decoder", name, [paged_spec(kind, 3, size, dtype, bias)])[0],
        query_lens,
        kv_lens,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 2])
def test_beams_that_share_pages_are_attended_together(dtype: torch.dtype, threads: int) -> None:
    """Each as alone, whatever stands behind the pages that it uses."""
    (backend,) = select_paged("decoder", "cpu_paged", [paged_spec("cross", 3, 16, dtype)])
    backend.threads = threads
    size = backend.spec.page_size
    assert size is not None
    keys, values = torch.randn(2, 12, size, 3, 16).to(dtype)
    q = torch.randn(13, 3, 16).to(dtype)
    table = np.array([[1, 2, 3]] * 10 + [[1, 2, 4], [5, 2, 3], [5, 2, 3]])
    lengths = np.array([2 * size - 1] * 10 + [2 * size - 1, 2 * size, 3 * size])
    table[4, 2] = 7  # stale
    whole = backend.plan(PagedBatch.of(np.ones(13, int), lengths, table, CPU))
    bounds = {1: [0, 8, 11, 12, 13], 2: [0, 7, 11, 12, 13]}[threads]
    assert whole.groups.tolist() == bounds
    out = backend.run(q, keys, values, whole)
    for row in range(13):
        one = slice(row, row + 1)
        batch = PagedBatch.of(np.ones(1, int), lengths[one], table[one], CPU)
        alone = backend.run(q[one], keys, values, backend.plan(batch))
        torch.testing.assert_close(out[one], alone)


def test_tokens_of_one_prompt_are_attended_together() -> None:
    (backend,) = select_paged("decoder", "cpu_paged", [paged_spec("causal", 3, 16, torch.float32)])
    check_paged(backend, [5], [9])
    batch = PagedBatch.of(np.array([5]), np.array([9]), np.array([[3, 1, 2]]), CPU)
    backend.threads = 2
    assert backend.plan(batch).groups.tolist() == [0, 3, 5]


HEADS = 6
KV_HEADS = [1, 2, HEADS]


@pytest.mark.parametrize("kv_heads", KV_HEADS)
@pytest.mark.parametrize("size", [64, 72, 80])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lengths", FULL_LENGTHS)
def test_full_attention_of_grouped_heads(
    kv_heads: int, size: int, bias: bool, lengths: list[int]
) -> None:
    spec = full_spec(HEADS, size, torch.float32, bias, kv_heads=kv_heads)
    check_full(select_full("encoder", "torch_sdpa", spec), lengths)


@pytest.mark.parametrize(("name", "dtype"), PAGED)
@pytest.mark.parametrize(("kind", "bias"), [("causal", False), ("causal", True), ("cross", False)])
@pytest.mark.parametrize("kv_heads", KV_HEADS)
@pytest.mark.parametrize("size", [64, 72, 80])
def test_paged_attention_of_grouped_heads(
    name: str, dtype: torch.dtype, kind: Any, bias: bool, kv_heads: int, size: int
) -> None:
    spec = paged_spec(kind, HEADS, size, dtype, bias, kv_heads=kv_heads)
    (backend,) = select_paged("decoder", name, [spec])
    for query_lens, kv_lens in PAGED_LENGTHS:
        check_paged(backend, query_lens, kv_lens)


@pytest.mark.parametrize("kind", ["causal", "cross"])
def test_the_reference_reads_float8_pages(kind: Any) -> None:
    (backend,) = select_paged(
        "decoder", "torch_sdpa", [paged_spec(kind, 3, 64, torch.bfloat16, kv=FLOAT8)]
    )
    check_paged(backend, *PAGED_LENGTHS[2])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("bias", [False, True])
def test_flex_attention_uncompiled(bias: bool) -> None:
    """Compiled, it runs on the GPU only; the mask and the bias are the same code."""
    check_full(FlexFull(full_spec(3, 16, torch.float32, bias)), FULL_LENGTHS[2])
    check_full(FlexFull(full_spec(6, 16, torch.float32, bias, kv_heads=2)), FULL_LENGTHS[2])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("bias", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_flex_attention_meets_few_shapes_whatever_the_lengths(bias: bool) -> None:
    """Each is compiled once on a GPU, where torch gives up after eight."""
    backend, shapes = FlexFull(full_spec(2, 16, torch.float32, bias)), []
    attend = backend._attend

    def note(*tensors: torch.Tensor, **options: Any) -> torch.Tensor:
        mask = options["block_mask"]
        shapes.append(
            (
                tensors[0].shape,
                *(tensor.stride() for tensor in tensors),
                mask.shape,
                mask.kv_indices.shape,
            )
        )
        return attend(*tensors, **options)

    backend._attend = note
    rng = np.random.default_rng(2)
    for seed in range(12):
        check_full(backend, rng.integers(1, 20 + 20 * seed, int(rng.integers(1, 6))).tolist(), seed)
    check_full(backend, [512], seed=1)
    check_full(backend, [513], seed=1)
    assert len(set(shapes)) == len({shape[0] for shape in shapes}) <= 3


@pytest.mark.parametrize(
    ("tokens", "size"), [(1, 512), (512, 512), (513, 1024), (16_384, 16_384), (16_385, 32_768)]
)
def test_padded_sizes(tokens: int, size: int) -> None:
    assert padded_size(tokens) == size


def test_a_plan_serves_every_layer_with_the_bias_of_the_step() -> None:
    (backend,) = select_paged(
        "decoder", "cpu_paged", [paged_spec("causal", 2, 8, torch.float32, bias=True)]
    )
    bias = make_bias(2, False)
    metadata = backend.plan(PagedBatch.of(np.array([1]), np.array([6]), np.array([[0, 1]]), CPU))
    pages = torch.randn(2, 2, 4, 2, 8)
    q = torch.randn(1, 2, 8)
    torch.testing.assert_close(
        backend.run(q, pages[0], pages[1], metadata, bias),
        backend.run(q, pages[0], pages[1], metadata, bias),
    )
