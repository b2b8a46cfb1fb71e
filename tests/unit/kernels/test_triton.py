"""Our Triton kernels in Triton's interpreter, which runs them on the CPU.

bfloat16 is left to the GPU: the interpreter's dot treats it as integers.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_cases import (
    FULL_LENGTHS,
    PAGED_LENGTHS,
    check_full,
    check_paged,
    full_spec,
    paged_spec,
)
from covering import covering
from kernel_checks import FLOAT8, check_projecting, check_small_batch

pytest.importorskip("triton")

import triton.language as tl

from antiphon.attention.backends import triton as triton_backend
from antiphon.attention.backends.triton import TritonFull, TritonPaged
from antiphon.decoder.readouts import DeviceReadouts
from antiphon.kernels import paged_splits
from antiphon.kernels.full_attention import head_parts
from antiphon.kernels.norms import activation, add_norm
from antiphon.kernels.page_write import write_pages
from antiphon.kernels.paged_launch import PagedLaunch, Tile
from antiphon.kv.pool import KVPool
from antiphon.layers.activations import KINDS, Activation
from antiphon.layers.norms import LayerNorm, RMSNorm, pending_terms
from antiphon.layers.residual import Residual, SplitK

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compiled there: see tests/gpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [8, 72, 80])
@pytest.mark.parametrize("bias", [False, True])
def test_full_attention(dtype: torch.dtype, size: int, bias: bool) -> None:
    check_full(TritonFull(full_spec(2, size, dtype, bias)), FULL_LENGTHS[2])


@covering(
    dtypes=[(torch.float32, None), (torch.float16, None), (torch.bfloat16, FLOAT8)],
    kind=[("causal", False), ("causal", True), ("cross", False)],
    size=[8, 72],
    splits=[1, 3],
)
def test_paged_attention(
    dtypes: tuple[torch.dtype, Any],
    kind: tuple[Any, bool],
    size: int,
    splits: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        triton_backend.PagedLaunch,
        "choose",
        lambda *_: PagedLaunch(splits, Tile(keys=16, warps=4, stages=1)),
    )
    monkeypatch.setattr(
        paged_splits, "LEAST_KEYS", tl.constexpr(16)
    )  # so that short sequences are split, some in fewer than others
    (name, bias), (dtype, kv) = kind, dtypes
    backend = TritonPaged(paged_spec(name, 2, size, dtype, bias, kv=kv))
    check_paged(backend, *PAGED_LENGTHS[1])  # one query each: the decode kernel
    check_paged(backend, *PAGED_LENGTHS[2])
    check_paged(backend, [20, 1], [41, 7])  # more queries than one block takes


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("size", [64, 72, 80])
def test_full_attention_of_grouped_heads(kv_heads: int, size: int) -> None:
    spec = full_spec(6, size, torch.float32, kv_heads=kv_heads)
    check_full(TritonFull(spec), FULL_LENGTHS[2])


@covering(
    ways=1,  # pairs are tested above, with groups of one
    dtypes=[(torch.float32, None), (torch.bfloat16, FLOAT8)],
    kind=[("causal", False), ("causal", True), ("cross", False)],
    heads=[(6, 2), (7, 1)],
    splits=[1, 3],
)
def test_paged_attention_of_grouped_heads(
    dtypes: tuple[torch.dtype, Any],
    kind: tuple[Any, bool],
    heads: tuple[int, int],
    splits: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Groups of 3 and 7 heads leave queries across the ends of tiles."""
    check_grouped_heads(*dtypes, *kind, *heads, splits, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "kv"), [(torch.float32, None), (torch.bfloat16, FLOAT8)])
@pytest.mark.parametrize(("kind", "bias"), [("causal", False), ("causal", True), ("cross", False)])
@pytest.mark.parametrize("splits", [1, 3])
def test_groups_that_fill_several_tiles(
    dtype: torch.dtype,
    kv: Any,
    kind: Any,
    bias: bool,
    splits: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_grouped_heads(dtype, kv, kind, bias, 40, 2, splits, monkeypatch)


def check_grouped_heads(
    dtype: torch.dtype,
    kv: Any,
    kind: Any,
    bias: bool,
    heads: int,
    kv_heads: int,
    splits: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last problem has four tiles of rows, and keys for every split."""
    launch = PagedLaunch(splits, Tile(keys=16, warps=4, stages=1))
    monkeypatch.setattr(triton_backend.PagedLaunch, "choose", lambda *_: launch)
    monkeypatch.setattr(paged_splits, "LEAST_KEYS", tl.constexpr(16))
    backend = TritonPaged(paged_spec(kind, heads, 8, dtype, bias, kv=kv, kv_heads=kv_heads))
    queries = 60 // (heads // kv_heads)
    check_paged(backend, *PAGED_LENGTHS[1])
    check_paged(backend, *PAGED_LENGTHS[2])
    check_paged(backend, [queries, 1], [41, 7])


@pytest.mark.parametrize(
    ("rows", "kv_heads"),
    [(3, 1), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, 1), (1, 2), (4, 2)))],
)
def test_keys_and_values_of_a_small_batch_go_into_pages(
    rows: int, kv_heads: int
) -> None:  # float8 on a GPU: the interpreter rounds it wrongly
    check_projecting(rows, torch.float16, torch.float16, "cpu", kv_heads)


SMALL_BATCHES: list[tuple[int, Any, tuple[int, int], str | None]] = [
    (4, None, (256, 64), None),
    (1, None, (1024, 64), None),
    (2, lambda: LayerNorm(384), (384, 128), None),
    (3, lambda: LayerNorm(256), (256, 64), "gelu"),
    (1, lambda: RMSNorm(256, 1e-6), (256, 64), "relu"),
]
OTHER_ROWS = [
    (rows, *case) for most, *case in SMALL_BATCHES for rows in (1, 2, 3, 4) if rows != most
]


@pytest.mark.parametrize(
    ("rows", "norm", "sizes", "activation"),
    [*SMALL_BATCHES, *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHER_ROWS)],
)
def test_linear_layers_of_a_small_batch(
    rows: int, norm: Any, sizes: tuple[int, int], activation: str | None
) -> None:
    check_small_batch(rows, norm and norm(), sizes, activation, "cpu", torch.float16)


def test_splits_fill_the_device_but_are_never_tiny() -> None:
    def splits(sequences: int, max_kv_len: int) -> int:
        return PagedLaunch.choose(
            "cross", sequences, 1, heads=20, head_dim=64, max_kv_len=max_kv_len, multiprocessors=132
        ).splits

    assert splits(sequences=1, max_kv_len=1500) == 16
    assert splits(sequences=1, max_kv_len=100) == 1
    assert splits(sequences=200, max_kv_len=1500) == 1


@pytest.mark.parametrize(
    # `fastest` as measured on an H200: (warps, stages) within 3 % of each other count as equal.
    ("sequences", "heads", "fastest"),
    [
        (64, 16, {(1, 2)}), (64, 20, {(1, 3), (2, 2)}), (80, 20, {(1, 2)}),
        (96, 32, {(1, 3)}), (128, 16, {(1, 2)}), (128, 20, {(1, 3), (2, 2)}),
        (128, 32, {(1, 3), (1, 2)}), (160, 20, {(2, 2)}), (208, 20, {(1, 3), (1, 2)}),
        (256, 20, {(1, 2), (2, 2)}), (320, 20, {(2, 2)}), (384, 20, {(1, 3), (2, 2)}),
        (512, 20, {(1, 3), (1, 2), (2, 2)}),
    ],
)  # fmt: skip
def test_the_last_round_of_programs_is_a_full_one(
    sequences: int, heads: int, fastest: set[tuple[int, int]]
) -> None:
    tile = PagedLaunch.choose(
        "cross", sequences, 1, heads, 64, max_kv_len=1500, multiprocessors=132
    ).tile
    assert tile.keys == 32
    assert (tile.warps, tile.stages) in fastest


@pytest.mark.parametrize("sequences", [100, 158, 159, 256, 300, 512, 1000])
@pytest.mark.parametrize("q_blocks", [1, 16])
def test_programs_that_start_together_end_together(sequences: int, q_blocks: int) -> None:
    launch = PagedLaunch.choose(
        "cross", sequences, q_blocks, 20, 64, max_kv_len=1500, multiprocessors=132, float8=True
    )
    programs = -(-sequences // launch.sequences) * 20 * launch.splits / 132  # of a multiprocessor
    assert 13 <= programs <= 26.2


@pytest.mark.parametrize(
    ("splits", "bias"),
    [
        (3, True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((1, False), (1, True), (3, False))
        ),
    ],
)
def test_a_program_of_the_decode_kernel_takes_several_sequences(
    splits: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has several queries is among them: it is the other kernel's."""
    launch = PagedLaunch(splits, Tile(keys=16, warps=4, stages=1), sequences=2)
    monkeypatch.setattr(triton_backend.PagedLaunch, "choose", lambda *_: launch)
    monkeypatch.setattr(paged_splits, "LEAST_KEYS", tl.constexpr(16))
    backend = TritonPaged(paged_spec("causal", 2, 8, torch.bfloat16, bias, kv=FLOAT8))
    check_paged(backend, [1] * 5, [40, 3, 17, 70, 9])
    check_paged(backend, [1, 4, 1, 1, 1], [40, 8, 17, 70, 9])


def test_head_sizes_are_taken_apart_without_waste() -> None:
    assert {size: head_parts(size) for size in (8, 64, 72, 80, 96, 128)} == {
        8: (16, 0), 64: (64, 0), 72: (128, 0), 80: (64, 16), 96: (64, 32), 128: (128, 0),
    }  # fmt: skip


ADDED: list[Callable[[], Any]] = [
    lambda: None, lambda: torch.randn(5, 80)[:, 40:], lambda: SplitK(torch.randn(4, 5, 40), None),
    lambda: SplitK(torch.randn(2, 5, 40), torch.randn(40)),
]  # fmt: skip


@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize("make", [lambda: LayerNorm(40), lambda: RMSNorm(40, 1e-6)])
def test_the_norm_of_a_sum(make: Any, added: Callable[[], Any]) -> None:
    norm, x, delta = make(), torch.randn(5, 40) * 3 + 1, added()
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    total, actual = add_norm(x, *pending_terms(delta), norm.weight, norm.bias, norm.eps)
    wanted, stream = norm(Residual(x, delta))
    torch.testing.assert_close(total, stream.x)
    torch.testing.assert_close(actual, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(KINDS))
@pytest.mark.parametrize("gated", [False, True])
def test_activations(name: str, gated: bool) -> None:
    both = torch.linspace(-9, 9, 2 * 3 * 50).view(3, 100)
    x, gate = both[:, :50], both[:, 50:] if gated else None
    torch.testing.assert_close(
        activation(KINDS[name], x, gate), Activation(name)(x, gate), atol=2e-6, rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, FLOAT8])
def test_writing_pages(dtype: torch.dtype) -> None:
    """The kernel writes what the pool's own code for CPUs writes; float8 saturates."""
    pools = [KVPool(1, 6, 4, 2, 8, dtype, torch.device("cpu")) for _ in range(2)]
    stacked = (torch.randn(5, 6, 8) * 300).clamp(-448, 448)
    if dtype == FLOAT8:  # exact values: the interpreter rounds wrongly where the exponent must grow
        stacked = stacked.to(FLOAT8).float()
        stacked[:, :, 0] *= 1e3
    _, k, v = stacked.split(2, dim=1)
    slots = torch.tensor([3, 0, 17, 9, 8], dtype=torch.int32)
    pools[0].write(0, slots, k, v)
    write_pages(k, v, *pools[1].layers[0].flatten(1, 2), slots)
    actual, wanted = (pool.layers[0].float() for pool in pools)
    torch.testing.assert_close(actual, wanted)
    assert actual.isfinite().all()
    assert actual.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_readouts(dtype: torch.dtype) -> None:
    """Of any token, the likeliest and those outside the vocabulary; in one pass over two blocks."""
    torch.manual_seed(3)
    logits = torch.randn(5, 5000).to(dtype) * 4
    logits[1, 4700] = 30
    logits[2, :4500] = float("-inf")
    token_ids = torch.tensor([7, 4700, 4999, 5000, -1], dtype=torch.int32)
    wanted, actual = (DeviceReadouts.empty(5, torch.device("cpu")) for _ in range(2))
    wanted.read(logits, token_ids)
    actual.read_by_kernels(logits, token_ids)
    torch.testing.assert_close(actual.logprobs, wanted.logprobs, atol=1e-4, rtol=1e-4)
    assert torch.equal(actual.likeliest, wanted.likeliest)
    assert wanted.logprobs[1] > -0.01
    assert wanted.logprobs[3:].tolist() == [float("-inf")] * 2
