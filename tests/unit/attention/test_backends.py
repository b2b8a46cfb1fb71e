"""Every backend that runs here against plain float64 attention; and the selection, whose refusals need no device."""

import re
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
from antiphon.attention.interface import AttentionSpec, PagedBatch
from antiphon.attention.registry import BACKENDS, Row, Support
from antiphon.attention.selection import ORDER, choose, refusal, select_full, select_paged
from antiphon.config.errors import AttentionBackendError

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
    if (support := row.support("causal")) and dtype in support.dtypes and "cpu" in support.devices
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


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("bias", [False, True])
def test_flex_attention_meets_few_shapes_whatever_the_lengths(bias: bool) -> None:
    """Each is compiled once on a GPU, where torch gives up after eight."""
    backend, shapes = FlexFull(full_spec(2, 16, torch.float32, bias)), []
    attend = backend._attend

    def note(*tensors: torch.Tensor, **options: Any) -> torch.Tensor:
        mask = options["block_mask"]
        shapes.append(
            (
                tensors[0].shape,
                *(each.stride() for each in tensors),
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
    assert len(set(shapes)) == len({each[0] for each in shapes}) <= 3


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


# ---------------------------------------------------------------------- selection


def test_auto_takes_the_first_of_the_order_that_can() -> None:
    paged = [paged_spec("causal", 2, 8, torch.float32), paged_spec("cross", 2, 8, torch.float32)]
    assert select_paged("decoder", "auto", paged)[0].name == "cpu_paged"
    assert (
        select_paged("decoder", "auto", [paged_spec("causal", 2, 8, torch.bfloat16)])[0].name
        == "torch_sdpa"
    )
    assert select_full("encoder", "auto", full_spec(2, 8, torch.float32)).name == "torch_sdpa"


def test_every_order_names_known_backends_and_ends_with_the_reference() -> None:
    assert {device for device, _ in ORDER} == {"cpu", "cuda"}
    for (_, kinds), order in ORDER.items():
        assert order[-1] == "torch_sdpa"
        for name in order:
            assert BACKENDS[name].support("causal" if kinds == "paged" else "full") is not None


EVERYTHING: dict[str, Any] = {
    "implementation": "Nothing",
    "dtypes": frozenset({torch.float32}),
    "devices": frozenset({"cpu"}),
    "bias": True,
    "float8": True,
}


@pytest.mark.parametrize(
    ("support", "wanted", "reason"),
    [
        ({"devices": frozenset({"cuda"})}, {}, "does not run on cpu"),
        ({"dtypes": frozenset({torch.float16})}, {}, "does not take float32"),
        ({"head_dims": frozenset({64, 128})}, {"size": 72}, "head size 72 is none of 64, 128"),
        ({"head_dim_multiple": 32}, {"size": 72}, "head size 72 is not a multiple of 32"),
        ({"max_head_dim": 128}, {"size": 256}, "head size 256 is over 128"),
        ({"bias": False}, {"bias": True}, "takes no additive position bias"),
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
    support: dict[str, Any], wanted: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        BACKENDS, "fake", Row("nowhere", paged=Support(**{**EVERYTHING, **support}))
    )
    asked = paged_spec(
        "causal",
        2,
        wanted.get("size", 64),
        torch.float32,
        wanted.get("bias", False),
        kv=wanted.get("kv"),
    )
    refused = refusal("fake", asked, wanted.get("capability"))
    assert refused is not None
    assert re.search(reason, refused), refused


def test_a_missing_package_is_named_with_the_extra_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = Row("nowhere", full=Support(**EVERYTHING), package="no_such_package", extra="fast")
    monkeypatch.setitem(BACKENDS, "fake", row)
    found = refusal("fake", full_spec(2, 64, torch.float32))
    assert found == "no_such_package is not installed (pip install 'antiphon[fast]')"


def on_gpu(kind: Any, size: int, dtype: torch.dtype, **rest: Any) -> AttentionSpec:
    page_size = None if kind == "full" else rest.pop("page_size", 16)
    return AttentionSpec(
        kind, 16, size, 0.1, dtype, torch.device("cuda"), page_size=page_size, **rest
    )


BF16, F32 = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("name", "asked", "reason"),
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
    ],
)
def test_what_each_backend_declares(
    name: str, asked: AttentionSpec, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of the table as they are, on a Hopper GPU where every package is installed."""
    monkeypatch.setattr("antiphon.attention.selection.find_spec", lambda package: package)
    assert refusal(name, asked, (9, 0)) == reason


def test_an_old_gpu_is_refused_by_every_backend_with_a_least_capability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("antiphon.attention.selection.find_spec", lambda package: package)
    for name in ("flash_attn", "flashinfer", "triton", "flex"):
        found = refusal(name, on_gpu("full", 64, torch.float16), (7, 5))
        assert found == "needs compute capability (8, 0), this device has (7, 5)"


def test_a_backend_for_hopper_alone_is_refused_before_and_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("antiphon.attention.selection.find_spec", lambda package: package)
    asked = on_gpu("full", 64, BF16)
    assert (
        refusal("flash_attn_3", asked, (8, 0))
        == "needs compute capability (9, 0), this device has (8, 0)"
    )
    assert (
        refusal("flash_attn_3", asked, (10, 0))
        == "runs up to compute capability (9, 0), this device has (10, 0)"
    )


def test_what_no_extra_installs_is_said_where_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("antiphon.attention.selection.find_spec", lambda package: None)
    found = refusal("flash_attn_3", on_gpu("full", 64, BF16), (9, 0))
    assert (
        found
        == "flash_attn_interface is not installed (install it from the folder hopper of github.com/Dao-AILab/flash-attention)"
    )


def test_an_explicit_choice_that_cannot_serve_is_refused_with_the_valid_ones() -> None:
    specs = [full_spec(2, 8, torch.float32)]
    with pytest.raises(
        AttentionBackendError,
        match=r"encoder_attention_backend='cpu_paged'.*has no full attention.*Valid here: torch_sdpa",
    ):
        choose("encoder", "cpu_paged", specs)
    with pytest.raises(AttentionBackendError, match="Did you mean 'torch_sdpa'"):
        choose("encoder", "torch_spda", specs)
