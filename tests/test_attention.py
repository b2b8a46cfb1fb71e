"""Every backend against plain float64 attention, on ragged lengths, with what lies outside them poisoned; and the selection."""

from typing import Any

import numpy as np
import pytest
import torch

from antiphon.attention.backends import BACKENDS, Row, Support
from antiphon.attention.interface import AttentionSpec, FullBatch, PagedBatch
from antiphon.attention.selection import ORDER, refusal, select
from antiphon.config.errors import AttentionBackendError
from antiphon.layers.positions import RelativeBias

CPU = torch.device("cpu")
POISON = 1e4  # in keys that nobody may see; finite, so that a masked product stays finite too
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def spec(
    kind: Any, heads: int, size: int, dtype: torch.dtype = torch.float32, bias: bool = False, page_size: int = 4
) -> AttentionSpec:
    return AttentionSpec(kind, heads, size, 0.3, dtype, CPU, bias, None if kind == "full" else page_size)


def make_bias(heads: int, bidirectional: bool) -> RelativeBias:
    bias = RelativeBias(heads, 8, 20, bidirectional)
    bias.weight.data.normal_(std=1.0)
    return bias


def plain_attention(q, k, v, scale: float, bias: RelativeBias | None, first_query: int, causal: bool) -> torch.Tensor:
    """One sequence in float64: q [queries, heads, size], k and v [keys, heads, size]."""
    scores = torch.einsum("qhd,khd->hqk", q.double(), k.double()) * scale
    distance = torch.arange(k.shape[0])[None] - (torch.arange(q.shape[0]) + first_query)[:, None]
    if bias is not None:
        scores = scores + bias.materialise(distance[None])[0].double()
    if causal:
        scores = scores.masked_fill(distance > 0, float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [8, 64, 72, 80, 128])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("lengths", [[7], [5, 5, 5], [1, 13, 4, 30]])
def test_full_attention(dtype: torch.dtype, size: int, with_bias: bool, lengths: list[int]) -> None:
    torch.manual_seed(0)
    heads = 3
    (backend,) = select("encoder", "torch_sdpa", [spec("full", heads, size, dtype, with_bias)])
    q, k, v = (torch.randn(sum(lengths), heads, size, dtype=dtype) for _ in range(3))
    bias = make_bias(heads, True) if with_bias else None
    found = backend.run(q, k, v, backend.plan(FullBatch(np.array(lengths))), bias)
    start = 0
    for length in lengths:
        rows = slice(start, start := start + length)
        wanted = plain_attention(q[rows], k[rows], v[rows], 0.3, bias, 0, False)
        torch.testing.assert_close(found[rows].double(), wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


PAGED = [
    (name, dtype)
    for name, row in BACKENDS.items()
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
    if dtype in row.support.dtypes and "causal" in row.support.kinds and "cpu" in row.support.devices
]


@pytest.mark.parametrize(("name", "dtype"), PAGED)
@pytest.mark.parametrize("kind", ["causal", "cross"])
@pytest.mark.parametrize("size", [8, 64, 72, 80, 128])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("query_lens", "kv_lens"),
    [([1], [9]), ([1, 1, 1], [4, 17, 1]), ([1, 1, 5, 3], [16, 2, 5, 21]), ([6, 2], [6, 30])],
)
def test_paged_attention(
    name: str, dtype: torch.dtype, kind: str, size: int, with_bias: bool, query_lens: list[int], kv_lens: list[int]
) -> None:
    if kind == "cross" and with_bias:
        with_bias = False  # T5's cross-attention has none
    torch.manual_seed(1)
    heads, page_size = 3, 4
    (backend,) = select("decoder", name, [spec(kind, heads, size, dtype, with_bias, page_size)])
    pages_each = [-(-length // page_size) for length in kv_lens]
    order = np.random.default_rng(0).permutation(sum(pages_each) + 5)
    table = np.zeros((len(kv_lens), max(pages_each)), np.int32)
    pool = torch.full((2, len(order), page_size, heads, size), POISON, dtype=dtype)
    sequences, at = [], 0
    for row, (length, count) in enumerate(zip(kv_lens, pages_each, strict=True)):
        table[row, :count] = order[at : at + count]
        at += count
        kv = torch.randn(2, length, heads, size, dtype=dtype)
        sequences.append(kv)
        for position in range(length):
            pool[:, table[row, position // page_size], position % page_size] = kv[:, position]
    q = torch.randn(sum(query_lens), heads, size, dtype=dtype)
    bias = make_bias(heads, False) if with_bias else None
    batch = PagedBatch(np.array(query_lens), np.array(kv_lens), table)
    found = backend.run(q, pool[0], pool[1], backend.plan(batch), bias)
    start = 0
    for queries, length, (k, v) in zip(query_lens, kv_lens, sequences, strict=True):
        rows = slice(start, start := start + queries)
        wanted = plain_attention(q[rows], k, v, 0.3, bias, length - queries, kind == "causal")
        torch.testing.assert_close(found[rows].double(), wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_a_plan_serves_every_layer_with_the_bias_of_the_step() -> None:
    (backend,) = select("decoder", "cpu_paged", [spec("causal", 2, 8, bias=True)])
    bias = make_bias(2, False)
    plan = backend.plan(PagedBatch(np.array([1]), np.array([6]), np.array([[0, 1]])))
    pages = torch.randn(2, 2, 4, 2, 8)
    q = torch.randn(1, 2, 8)
    torch.testing.assert_close(backend.run(q, pages[0], pages[1], plan, bias), backend.run(q, pages[0], pages[1], plan, bias))


# ---------------------------------------------------------------------- selection


def test_auto_takes_the_first_of_the_order_that_can() -> None:
    assert select("decoder", "auto", [spec("causal", 2, 8), spec("cross", 2, 8)])[0].name == "cpu_paged"
    assert select("decoder", "auto", [spec("causal", 2, 8, torch.bfloat16)])[0].name == "torch_sdpa"
    assert select("encoder", "auto", [spec("full", 2, 8)])[0].name == "torch_sdpa"


def test_every_order_names_known_backends_and_ends_with_the_reference() -> None:
    for order in ORDER.values():
        assert set(order) <= set(BACKENDS)
        assert order[-1] == "torch_sdpa"


@pytest.mark.parametrize(
    ("support", "wanted", "reason"),
    [
        (
            {"package": "no_such_package", "extra": "fast"},
            {},
            r"no_such_package is not installed \(pip install 'antiphon\[fast\]'\)",
        ),
        ({"devices": frozenset({"cuda"})}, {}, "does not run on cpu"),
        ({"kinds": frozenset({"full"})}, {}, "has no causal attention"),
        ({"dtypes": frozenset({torch.float16})}, {}, "does not take float32"),
        ({"head_dim_multiple": 32}, {"size": 72}, "head size 72 is not a multiple of 32"),
        ({"max_head_dim": 128}, {"size": 256}, "head size 256 is over 128"),
        ({"bias": False}, {"bias": True}, "takes no additive position bias"),
        ({"page_size_multiple": 256}, {}, "page size 4 is not a multiple of 256"),
        ({"min_capability": (9, 0)}, {"capability": (8, 0)}, r"needs compute capability \(9, 0\), this device has \(8, 0\)"),
    ],
)
def test_refusals(support: dict[str, Any], wanted: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = {
        "kinds": frozenset({"full", "causal", "cross"}),
        "dtypes": frozenset({torch.float32}),
        "devices": frozenset({"cpu"}),
    }
    fields = {**everything, "bias": True, **support}
    monkeypatch.setitem(BACKENDS, "fake", Row("nowhere:Nothing", Support(**fields)))
    asked = spec("causal", 2, wanted.get("size", 64), bias=wanted.get("bias", False))
    found = refusal("fake", asked, wanted.get("capability"))
    assert found is not None
    import re

    assert re.search(reason, found), found


def test_an_explicit_choice_that_cannot_serve_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(
        AttentionBackendError, match=r"encoder_attention_backend='cpu_paged'.*has no full attention.*Valid here: torch_sdpa"
    ):
        select("encoder", "cpu_paged", [spec("full", 2, 8)])
    with pytest.raises(AttentionBackendError, match="Did you mean 'torch_sdpa'"):
        select("encoder", "torch_spda", [spec("full", 2, 8)])
