"""Our Triton kernels in Triton's interpreter, which runs them on the CPU. bfloat16 is left to the GPU: the interpreter's dot
treats it as integers."""

from typing import Any

import pytest
import torch
from attention_cases import FULL_LENGTHS, PAGED_LENGTHS, check_full, check_paged, full_spec, paged_spec

pytest.importorskip("triton")

from antiphon.attention import triton_backend
from antiphon.attention.triton_backend import TritonAttention
from antiphon.attention.triton_full import head_parts
from antiphon.attention.triton_paged import PagedLaunch
from antiphon.kv.pool import KVPool
from antiphon.kv.triton_write import write_pages
from antiphon.layers.linear import KINDS, Activation
from antiphon.layers.norms import LayerNorm, RMSNorm
from antiphon.layers.triton_norms import activation, add_norm

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compiled there: see test_gpu_attention.py")
FLOAT8 = torch.float8_e4m3fn


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [8, 72, 80])
@pytest.mark.parametrize("bias", [False, True])
def test_full_attention(dtype: torch.dtype, size: int, bias: bool) -> None:
    check_full(TritonAttention(full_spec(2, size, dtype, bias)), FULL_LENGTHS[2])


@pytest.mark.parametrize(("dtype", "kv"), [(torch.float32, None), (torch.float16, None), (torch.bfloat16, FLOAT8)])
@pytest.mark.parametrize(("kind", "bias"), [("causal", False), ("causal", True), ("cross", False)])
@pytest.mark.parametrize("size", [8, 72])
@pytest.mark.parametrize("splits", [1, 3])
def test_paged_attention(
    dtype: torch.dtype, kv: Any, kind: Any, bias: bool, size: int, splits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_backend.PagedLaunch, "choose", lambda *_: PagedLaunch(splits, block_keys=16, warps=4, stages=1))
    backend = TritonAttention(paged_spec(kind, 2, size, dtype, bias, kv=kv))
    check_paged(backend, *PAGED_LENGTHS[1])  # one query each: the decode kernel
    check_paged(backend, *PAGED_LENGTHS[2])
    check_paged(backend, [20, 1], [41, 7])  # more queries than one block takes


def test_splits_fill_the_device_but_are_never_tiny() -> None:
    def splits(blocks: int, max_kv_len: int) -> int:
        return PagedLaunch.choose(blocks, heads=20, max_kv_len=max_kv_len, float8=False, multiprocessors=132).splits

    assert splits(blocks=1, max_kv_len=1500) == 11
    assert splits(blocks=1, max_kv_len=100) == 1
    assert splits(blocks=200, max_kv_len=1500) == 1


def test_head_sizes_are_taken_apart_without_waste() -> None:
    assert {size: head_parts(size) for size in (8, 64, 72, 80, 96, 128)} == {
        8: (16, 0), 64: (64, 0), 72: (128, 0), 80: (64, 16), 96: (64, 32), 128: (128, 0),
    }  # fmt: skip


@pytest.mark.parametrize("with_delta", [False, True])
@pytest.mark.parametrize("make", [lambda: LayerNorm(40), lambda: RMSNorm(40, 1e-6)])
def test_the_norm_of_a_sum(make: Any, with_delta: bool) -> None:
    norm, x = make(), torch.randn(5, 40) * 3 + 1
    delta = torch.randn(5, 80)[:, 40:] if with_delta else None
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    total, found = add_norm(x, delta, norm.weight, getattr(norm, "bias", None), norm.eps)
    wanted_total, wanted = norm.after(x, delta)
    torch.testing.assert_close(total, wanted_total)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(KINDS))
@pytest.mark.parametrize("gated", [False, True])
def test_activations(name: str, gated: bool) -> None:
    both = torch.linspace(-9, 9, 2 * 3 * 50).view(3, 100)
    x, gate = both[:, :50], both[:, 50:] if gated else None
    torch.testing.assert_close(activation(KINDS[name], x, gate), Activation(name)(x, gate), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, FLOAT8])
def test_writing_pages(dtype: torch.dtype) -> None:
    """The kernel writes what the pool's own code for CPUs writes; float8 saturates."""
    pools = [KVPool(1, 6, 4, 2, 8, dtype, torch.device("cpu")) for _ in range(2)]
    stacked = torch.randn(5, 6, 8) * 300
    _, k, v = stacked.split(2, dim=1)
    slots = torch.tensor([3, 0, 17, 9, 8], dtype=torch.int32)
    pools[0].write(0, slots, k, v)
    write_pages(k, v, *pools[1].layers[0].flatten(1, 2), slots)
    found, wanted = (pool.layers[0].float() for pool in pools)
    torch.testing.assert_close(found, wanted)
    assert found.isfinite().all()
    assert found.any()
