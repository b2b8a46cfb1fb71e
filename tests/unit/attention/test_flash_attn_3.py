"""FlashAttention 3 by either of the packages that have its kernels. In their modules' place are
ones with the same functions, keywords and order of arguments, computed by torch."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from attention_cases import FULL_LENGTHS, check_full, full_spec

from antiphon.attention.interface import AttentionSpec, FullAttention
from antiphon.attention.registry import BACKENDS, backend_row, check_backend
from antiphon.attention.selection import refusal
from antiphon.config.errors import AttentionBackendError

UPSTREAM, FORWARD = "flash_attn_interface", "fa3_fwd_interface"
MODULE = "antiphon.attention.backends.flash_attn_3"
SOURCE = """
import torch
from torch.nn.functional import scaled_dot_product_attention


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
    seqused_q=None, seqused_k=None, softmax_scale=None, causal=False,
):
    assert q.dtype == torch.bfloat16
    assert int(cu_seqlens_q.diff().max()) == max_seqlen_q
    out = torch.empty_like(q)
    for begin, end in zip(cu_seqlens_q[:-1], cu_seqlens_q[1:]):
        parts = (x[begin:end].transpose(0, 1) for x in (q, k, v))
        made = scaled_dot_product_attention(*parts, scale=softmax_scale, enable_gqa=True)
        out[begin:end] = made.transpose(0, 1)
    return out


def flash_attn_with_kvcache(*_, **__):
    raise AssertionError("this build does not support paged KV")
"""
BF16, HOPPER = torch.bfloat16, (9, 0)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs modules of these names, and none of the other ones."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(*names: str) -> None:
        for name in names:
            (tmp_path / f"{name}.py").write_text(SOURCE)
        importlib.invalidate_caches()
        for name in (UPSTREAM, FORWARD, MODULE):
            monkeypatch.delitem(sys.modules, name, raising=False)

    return install


def spec(kind: str = "full", dtype: torch.dtype = BF16, size: int = 72) -> AttentionSpec:
    page_size = None if kind == "full" else 16
    device = torch.device("cuda")
    return AttentionSpec(kind, 16, 16, size, 0.1, dtype, device, page_size=page_size)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [UPSTREAM, FORWARD])
@pytest.mark.parametrize("lengths", FULL_LENGTHS)
def test_sequences_by_each_package(
    name: str, lengths: list[int], installed: Callable[..., None]
) -> None:
    installed(name)
    backend: type[FullAttention[object]] = backend_row("flash_attn_3").full_class()
    assert sys.modules[MODULE].flash_attn_varlen_func.__module__ == name  # type: ignore[attr-defined]
    check_full(backend(full_spec(4, 72, BF16, kv_heads=2)), lengths)


def test_what_the_build_of_encoders_cannot_do(installed: Callable[..., None]) -> None:
    installed(FORWARD)
    assert backend_row("flash_attn_3") is BACKENDS["flash_attn_3"].instead
    assert refusal("flash_attn_3", spec(), HOPPER) is None
    alone = f" in {FORWARD}, which alone is installed"
    for other, reason in (
        (spec(dtype=torch.float16), "does not take float16"),
        (spec("causal"), "has no causal attention"),
        (spec("cross"), "has no cross attention"),
        (spec(size=264), "head size 264 is over 256"),
    ):
        assert refusal("flash_attn_3", other, HOPPER) == reason + alone
    check_backend("encoder", "flash_attn_3", on_cpu=False)
    with pytest.raises(AttentionBackendError, match=f"has no causal attention{alone}"):
        check_backend("decoder", "flash_attn_3", on_cpu=False)


def test_the_whole_build_goes_first(installed: Callable[..., None]) -> None:
    installed(UPSTREAM, FORWARD)
    assert backend_row("flash_attn_3") is BACKENDS["flash_attn_3"]
    for kind in ("full", "causal", "cross"):
        assert refusal("flash_attn_3", spec(kind, torch.float16), HOPPER) is None


def test_where_neither_is_there(installed: Callable[..., None]) -> None:
    installed()
    reason = refusal("flash_attn_3", spec(), HOPPER)
    assert reason is not None
    assert reason.startswith(f"{UPSTREAM} is not installed (install it from the folder hopper of ")
    assert reason.endswith("or 'antiphon[fa3-fwd]', a part of it)")
