"""The selection of a backend, and what the table declares: refusals need no device."""

import ast
import re
from typing import Any

import pytest
import torch
from attention_cases import full_spec, paged_spec
from paths import ROOT

from antiphon.attention.interface import AttentionSpec
from antiphon.attention.registry import BACKENDS
from antiphon.attention.selection import (
    ORDER,
    capturable,
    choose,
    refusal,
    select_full,
    select_paged,
    uncapturable,
    unsupported,
)
from antiphon.attention.support import Row, Support
from antiphon.config.errors import AttentionBackendError

FLOAT8 = torch.float8_e4m3fn


def test_auto_takes_the_first_of_the_order_that_can() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        paged = [paged_spec("causal", 2, 8, dtype), paged_spec("cross", 2, 8, dtype)]
        assert select_paged("decoder", "auto", paged)[0].name == "cpu_paged"
    (backend,) = select_paged("decoder", "auto", [paged_spec("causal", 2, 8, torch.float16)])
    assert backend.name == "torch_sdpa"
    assert select_full("encoder", "auto", full_spec(2, 8, torch.float32)).name == "torch_sdpa"


def test_every_order_names_known_backends_and_ends_with_the_reference() -> None:
    assert {device for device, _ in ORDER} == {"cpu", "cuda"}
    for (_, kinds), order in ORDER.items():
        assert order[-1] == "torch_sdpa"
        for name in order:
            assert BACKENDS[name].support("causal" if kinds == "paged" else "full") is not None


EVERYTHING: dict[str, Any] = {
    "implementation": "Nothing",
    "dtypes": frozenset({"float32"}),
    "devices": frozenset({"cpu"}),
    "bias": True,
    "float8": True,
}


@pytest.mark.parametrize(
    ("support", "wanted", "reason"),
    [
        ({"devices": frozenset({"cuda"})}, {}, "does not run on cpu"),
        ({"dtypes": frozenset({"float16"})}, {}, "does not take float32"),
        ({"head_dims": frozenset({64, 128})}, {"size": 72}, "head size 72 is none of 64, 128"),
        ({"head_dim_multiple": 32}, {"size": 72}, "head size 72 is not a multiple of 32"),
        ({"max_head_dim": 128}, {"size": 256}, "head size 256 is over 128"),
        ({"bias": False}, {"bias": True}, "takes no additive position bias"),
        ({}, {"kv_heads": 1}, "takes no 1 heads of keys and values for 2 of queries"),
        ({"grouped_heads": True}, {"kv_heads": 1, "bias": True}, None),
        ({"page_size_multiple": 256}, {}, r"page size 4 is not a multiple of 256 \(kv_page_size\)"),
        ({"float8": False}, {"kv": FLOAT8}, "keeps no float8 keys and values"),
        (
            {},
            {"kv": FLOAT8, "capability": (8, 0)},
            r"float8 needs compute capability \(8, 9\), this device has \(8, 0\)",
        ),
        (
            {"min_capability": (9, 0)},
            {"capability": (8, 0)},
            r"needs compute capability \(9, 0\), this device has \(8, 0\)",
        ),
    ],
)
def test_refusals(
    support: dict[str, Any],
    wanted: dict[str, Any],
    reason: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        BACKENDS, "fake", Row("nowhere", paged=Support(**{**EVERYTHING, **support}))
    )
    spec = paged_spec(
        "causal",
        2,
        wanted.get("size", 64),
        torch.float32,
        wanted.get("bias", False),
        kv=wanted.get("kv"),
        kv_heads=wanted.get("kv_heads"),
    )
    refused = refusal("fake", spec, wanted.get("capability"))
    if reason is None:
        assert refused is None
        return
    assert refused is not None
    assert re.search(reason, refused), refused


def test_a_missing_package_is_named_with_the_extra_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = Row("nowhere", full=Support(**EVERYTHING), package="no_such_package", extra="fast")
    monkeypatch.setitem(BACKENDS, "fake", row)
    reason = refusal("fake", full_spec(2, 64, torch.float32))
    assert reason == "no_such_package is not installed (pip install 'antiphon[fast]')"


def on_gpu(kind: Any, size: int, dtype: torch.dtype, **rest: Any) -> AttentionSpec:
    page_size = None if kind == "full" else rest.pop("page_size", 16)
    return AttentionSpec(
        kind,
        16,
        rest.pop("kv_heads", 16),
        size,
        0.1,
        dtype,
        torch.device("cuda"),
        page_size=page_size,
        **rest,
    )


BF16, F32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("name", "spec", "reason"),
    [
        ("torch_sdpa", on_gpu("cross", 72, F32), None),
        ("torch_sdpa", on_gpu("causal", 64, BF16, bias=True, kv_dtype=FLOAT8), None),
        ("cpu_paged", on_gpu("causal", 64, F32), "does not run on cuda"),
        ("flash_attn", on_gpu("full", 72, BF16), None),
        ("flash_attn", on_gpu("full", 80, torch.float16), None),
        ("flash_attn", on_gpu("full", 64, F32), "does not take float32"),
        ("flash_attn", on_gpu("full", 68, BF16), "head size 68 is not a multiple of 8"),
        ("flash_attn", on_gpu("full", 512, BF16), "head size 512 is over 256"),
        ("flash_attn", on_gpu("full", 64, BF16, bias=True), "takes no additive position bias"),
        (
            "flash_attn",
            on_gpu("cross", 64, BF16),
            "page size 16 is not a multiple of 256 (kv_page_size)",
        ),
        ("flash_attn", on_gpu("cross", 64, BF16, page_size=256), None),
        (
            "flash_attn",
            on_gpu("cross", 64, BF16, page_size=256, kv_dtype=FLOAT8),
            "keeps no float8 keys and values",
        ),
        ("flash_attn_3", on_gpu("full", 72, BF16), None),
        ("flash_attn_3", on_gpu("full", 64, F32), "does not take float32"),
        ("flash_attn_3", on_gpu("full", 512, BF16), "head size 512 is over 256"),
        ("flash_attn_3", on_gpu("causal", 68, BF16), "head size 68 is not a multiple of 8"),
        ("flash_attn_3", on_gpu("causal", 64, BF16, bias=True), "takes no additive position bias"),
        ("flash_attn_3", on_gpu("cross", 80, BF16, kv_dtype=FLOAT8), None),
        (
            "flash_attn_3",
            on_gpu("cross", 72, BF16, kv_dtype=FLOAT8),
            "head size 72 is not a multiple of 16, as float8 needs it",
        ),
        ("flashinfer", on_gpu("full", 72, BF16), None),
        ("flashinfer", on_gpu("full", 256, BF16), "head size 256 is over 128"),
        ("flashinfer", on_gpu("full", 64, BF16, bias=True), "takes no additive position bias"),
        ("flashinfer", on_gpu("causal", 80, BF16), "head size 80 is none of 64, 128, 256"),
        ("flashinfer", on_gpu("causal", 64, BF16, kv_dtype=FLOAT8), None),
        ("triton", on_gpu("full", 72, F32, bias=True), None),
        ("triton", on_gpu("causal", 80, BF16, bias=True, kv_dtype=FLOAT8), None),
        ("triton", on_gpu("cross", 320, BF16), "head size 320 is over 256"),
        ("flex", on_gpu("full", 80, BF16, bias=True), None),
        ("flex", on_gpu("causal", 64, BF16), "has no causal attention"),
        ("xformers", on_gpu("full", 72, BF16, bias=True), None),
        ("xformers", on_gpu("full", 68, BF16), "head size 68 is not a multiple of 8"),
        ("xformers", on_gpu("cross", 64, BF16), "has no cross attention"),
        (
            "xformers",
            on_gpu("full", 64, BF16, kv_heads=2),
            "takes no 2 heads of keys and values for 16 of queries",
        ),
        ("triton", on_gpu("causal", 80, BF16, kv_heads=1, kv_dtype=FLOAT8), None),
        ("flashinfer", on_gpu("causal", 128, BF16, kv_heads=2), None),
        ("flash_attn", on_gpu("full", 72, BF16, kv_heads=4), None),
        ("flash_attn_3", on_gpu("causal", 128, BF16, kv_heads=2), None),
        ("flex", on_gpu("full", 64, BF16, kv_heads=2), None),
    ],
)
def test_what_each_backend_declares(
    name: str, spec: AttentionSpec, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of the table as they are, on a Hopper GPU where every package is installed."""
    monkeypatch.setattr("antiphon.attention.support.find_spec", lambda package: package)
    assert refusal(name, spec, (9, 0)) == reason


def test_an_old_gpu_is_refused_by_every_backend_with_a_least_capability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("antiphon.attention.support.find_spec", lambda package: package)
    for name in ("flash_attn", "flashinfer", "triton", "flex"):
        reason = refusal(name, on_gpu("full", 64, torch.float16), (7, 5))
        assert reason == "needs compute capability (8, 0), this device has (7, 5)"


def test_a_backend_for_hopper_alone_is_refused_before_and_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("antiphon.attention.support.find_spec", lambda package: package)
    spec = on_gpu("full", 64, BF16)
    assert (
        refusal("flash_attn_3", spec, (8, 0))
        == "needs compute capability (9, 0), this device has (8, 0)"
    )
    assert (
        refusal("flash_attn_3", spec, (10, 0))
        == "runs up to compute capability (9, 0), this device has (10, 0)"
    )


def test_what_no_extra_installs_is_said_where_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("antiphon.attention.support.find_spec", lambda package: None)
    assert refusal("flash_attn_3", on_gpu("full", 64, BF16), (9, 0)) == (
        "flash_attn_interface is not installed (install it from the folder hopper of "
        "github.com/Dao-AILab/flash-attention, or 'antiphon[fa3-fwd]', a part of it)"
    )


@pytest.mark.parametrize("head_dim", [64, 72, 80, 128])
def test_head_sizes_of_vision_encoders(head_dim: int) -> None:
    """SigLIP has 72, Qwen's have 80, InternViT 64 and 128."""
    taking = {
        name
        for name, row in BACKENDS.items()
        if row.full is not None
        and unsupported(name, on_gpu("full", head_dim, BF16), (9, 0)) is None
    }
    assert taking == {name for name, row in BACKENDS.items() if row.full is not None}


def test_auto_passes_over_a_faster_backend_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("antiphon.attention.support.find_spec", lambda package: None)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    with caplog.at_level("INFO", "antiphon"):
        assert choose("encoder", "auto", [on_gpu("full", 72, BF16)]) == "torch_sdpa"
    assert "flashinfer is not installed (pip install 'antiphon[flashinfer]')" in caplog.text


def test_a_backend_whose_module_another_distribution_has_too() -> None:
    why = refusal("flash_attn_4", on_gpu("full", 64, BF16), (9, 0))
    assert why == "flash-attn-4 is not installed (pip install 'antiphon[flash-attn-4]')"
    assert unsupported("flash_attn_4", on_gpu("full", 136, BF16), (9, 0)) == (
        "head size 136 is over 128"
    )


def test_an_explicit_choice_that_cannot_serve_is_refused_with_the_valid_ones() -> None:
    specs = [full_spec(2, 8, torch.float32)]
    with pytest.raises(
        AttentionBackendError,
        match=r"encoder_attention_backend='cpu_paged'.*has no full attention"
        r".*Valid here: torch_sdpa",
    ):
        choose("encoder", "cpu_paged", specs)
    with pytest.raises(AttentionBackendError, match="Did you mean 'torch_sdpa'"):
        choose("encoder", "torch_spda", specs)


def test_every_class_that_the_table_names_exists() -> None:
    """Read from the files, because most packages are not installed here."""
    folder = ROOT / "attention" / "backends"
    for name, row in BACKENDS.items():
        tree = ast.parse((folder / f"{row.module}.py").read_text())
        classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        for support, interface in ((row.full, "FullAttention"), (row.paged, "PagedAttention")):
            if support is None:
                continue
            implementation = classes[support.implementation]
            assert [ast.unparse(base).split("[")[0] for base in implementation.bases] == [interface]
            assert f"name = '{name}'" in map(ast.unparse, implementation.body)


def test_what_cuda_graphs_cannot_hold_is_said() -> None:
    backend = select_paged("decoder", "torch_sdpa", [paged_spec("cross", 2, 8, torch.float32)])[0]
    assert uncapturable(backend) == "there are no CUDA graphs on cpu"
    backend.spec = on_gpu("cross", 8, F32)
    assert uncapturable(backend) == (
        "attention torch_sdpa can't be replayed from CUDA graphs for any lengths"
    )
    full = select_full("encoder", "torch_sdpa", full_spec(2, 8, torch.float32))
    full.spec = on_gpu("full", 8, F32)
    assert (capturable(full, "same"), capturable(full, "any")) == (True, False)
