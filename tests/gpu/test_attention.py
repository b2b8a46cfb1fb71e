"""On a CUDA device: every backend that is installed there, against float64 attention.

Every kind, dtype, head size and bias: python -m pytest -m gpu tests/gpu/test_attention.py
"""

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from attention_cases import (
    check_full,
    check_paged,
    close,
    full_spec,
    make_bias,
    paged_spec,
    plain_attention,
)

from antiphon.attention.interface import (
    AttentionSpec,
    FullAttention,
    FullBatch,
    Kind,
    PagedAttention,
    PagedBatch,
)
from antiphon.attention.registry import BACKENDS
from antiphon.attention.selection import missing, unsupported

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SIZES = [64, 72, 80, 128]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FLOAT8 = torch.float8_e4m3fn
KINDS: list[tuple[Kind, bool]] = [("causal", False), ("causal", True), ("cross", False)]
NAMES = [name for name in BACKENDS if name != "cpu_paged"]


def make_full(name: str, spec: AttentionSpec) -> FullAttention[object]:
    """Skips only where the backend's package is not installed, with what a user would be told."""
    if why := missing(name):
        pytest.skip(why)
    return BACKENDS[name].full_class()(spec)


def make_paged(name: str, spec: AttentionSpec) -> PagedAttention[object]:
    """As `make_full`."""
    if why := missing(name):
        pytest.skip(why)
    return BACKENDS[name].paged_class(spec.kind)(spec)


def supported(specs: list[tuple[str, AttentionSpec]]) -> list[Any]:
    """Those that the table of backends declares, on a Hopper GPU."""
    return [
        pytest.param(
            name,
            spec,
            id="-".join(
                map(
                    str,
                    (
                        *(name, spec.kind, spec.dtype, spec.kv_dtype, spec.head_dim, spec.bias),
                        f"{spec.num_heads}/{spec.num_kv_heads}",
                    ),
                )
            ),
        )
        for name, spec in specs
        if unsupported(name, spec, (9, 0)) is None
    ]


FULL = [
    (name, full_spec(5, size, dtype, bias, "cuda", kv=kv))
    for name in NAMES
    for dtype, kv in [*((dtype, None) for dtype in DTYPES), (torch.bfloat16, FLOAT8)]
    for size in SIZES
    for bias in (False, True)
]
PAGED = [
    (name, paged_spec(kind, 5, size, dtype, bias, 256 if name == "flash_attn" else 16, "cuda", kv))
    for name in NAMES
    for dtype, kv in [
        *((dtype, None) for dtype in DTYPES),
        (torch.bfloat16, FLOAT8),
        (torch.float16, FLOAT8),
    ]
    for kind, bias in KINDS
    for size in SIZES
]


@pytest.mark.parametrize(("name", "spec"), supported(FULL))
def test_full_attention(name: str, spec: AttentionSpec) -> None:
    backend = make_full(name, spec)
    check_full(backend, [1, 13, 700, 64, 257], seed=2)
    check_full(backend, [300, 300, 300], seed=3)


@pytest.mark.parametrize("size", SIZES)
def test_float8_beside_its_form_in_torch(size: int) -> None:
    """Nearer than to attention without float8: both round the same numbers."""
    torch.manual_seed(size)
    spec = full_spec(4, size, torch.bfloat16, False, "cuda", kv=FLOAT8)
    lengths = np.array([1, 64, 700, 130, 257])
    q, k, v = torch.randn(3, int(lengths.sum()), 4, size, device="cuda").to(torch.bfloat16)
    outputs = []
    for name in ("torch_sdpa", "triton"):
        backend = make_full(name, spec)
        metadata = backend.plan(FullBatch.of(lengths, spec.device))
        outputs.append(backend.run(q, k, v, metadata).float())
    largest = outputs[0].abs().max()
    assert (outputs[0] - outputs[1]).abs().max() <= 0.03 * largest


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", [name for name in NAMES if BACKENDS[name].support("full")])
def test_lengths_that_change_with_every_batch(name: str, bias: bool) -> None:
    """Kernels that were compiled for earlier shapes must not give later ones wrong results."""
    spec = full_spec(4, 64, torch.bfloat16, bias, "cuda")
    if unsupported(name, spec, torch.cuda.get_device_capability()) is not None:
        pytest.skip(f"{name} has no such attention")
    backend, rng = make_full(name, spec), np.random.default_rng(9)
    with torch.inference_mode():
        for seed in range(40):
            check_full(
                backend, rng.integers(1, 20 + 30 * seed, int(rng.integers(1, 6))).tolist(), seed
            )


@pytest.mark.parametrize(("name", "spec"), supported(PAGED))
def test_paged_attention(name: str, spec: AttentionSpec) -> None:
    backend = make_paged(name, spec)
    check_paged(backend, [1] * 6, [1, 16, 17, 700, 1500, 31], seed=4)  # decodes
    check_paged(backend, [4] * 3, [4, 4, 60], seed=5)  # first steps
    check_paged(backend, [1, 1, 8, 100], [900, 3, 8, 130], seed=6)  # mixed


LATENT = [
    (name, paged_spec("latent", heads, width, dtype, False, 16, "cuda", kv, kv_heads=1))
    for name in NAMES
    for heads, width in ((20, 1280), (12, 768), (16, 1024), (32, 2048), (3, 80))
    for dtype, kv in [*((dtype, None) for dtype in DTYPES), (torch.bfloat16, FLOAT8)]
]


@pytest.mark.parametrize(("name", "spec"), supported(LATENT))
def test_attention_to_hidden_states(name: str, spec: AttentionSpec) -> None:
    backend = make_paged(name, spec)
    check_paged(backend, [1] * 6, [1, 16, 17, 700, 1500, 31], seed=4)
    check_paged(backend, [1] * 140, [200] * 140, seed=5)  # no splits
    check_paged(backend, [1, 8, 3, 4], [900, 3, 8, 130], seed=6)  # drafts


GROUPED = [
    *(
        (name, full_spec(heads, size, dtype, False, "cuda", kv_heads))
        for name in NAMES
        for heads, kv_heads in ((6, 1), (6, 2), (28, 4))
        for size in SIZES
        for dtype in (torch.float32, torch.bfloat16)
    ),
    *(
        (
            name,
            paged_spec(
                kind, heads, size, torch.bfloat16, False, 256 if name == "flash_attn" else 16,
                "cuda", kv, kv_heads,
            ),
        )
        for name in NAMES
        for kind in ("causal", "cross")
        for heads, kv_heads in ((6, 1), (6, 2), (28, 4), (32, 8), (40, 1))
        for size in SIZES
        for kv in (None, FLOAT8)
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spec"), supported(GROUPED))
def test_grouped_heads(name: str, spec: AttentionSpec) -> None:
    if spec.kind == "full":
        check_full(make_full(name, spec), [1, 13, 700, 64, 257], seed=2)
        return
    backend = make_paged(name, spec)
    check_paged(backend, [1] * 6, [1, 16, 17, 700, 1500, 31], seed=4)  # decodes
    check_paged(backend, [1, 1, 8, 100], [900, 3, 8, 130], seed=6)  # mixed


@pytest.mark.parametrize("sequences", [250, 512])
@pytest.mark.parametrize("bias", [False, True])
def test_many_float8_sequences(sequences: int, bias: bool) -> None:
    """More than the device takes at once: a program takes several, one after the other."""
    lengths = np.random.default_rng(sequences).integers(1, 300, sequences).tolist()
    backend = make_paged(
        "triton", paged_spec("causal", 20, 64, torch.bfloat16, bias, 16, "cuda", FLOAT8)
    )
    check_paged(backend, [1] * sequences, lengths, seed=7)
    check_paged(backend, [1] * (sequences - 1) + [3], [*lengths[:-1], 90], seed=8)


@pytest.mark.parametrize(
    "name",
    [name for name in NAMES if (row := BACKENDS[name].support("causal")) and row.graphs == "any"],
)
@pytest.mark.parametrize(
    ("captured", "query_lens"),
    [([1] * 4, [1] * 4), ([1, 1, 4, 3], [1, 1, 4, 3]), ([8] * 4, [4, 1, 8, 2])],
    ids=["decodes", "mixed", "fewer queries"],
)
def test_a_captured_graph_serves_other_lengths(
    name: str, captured: list[int], query_lens: list[int]
) -> None:
    """The tensors keep their addresses, with new contents; `replan` does the work of the host.
    A graph is captured for the most queries that its steps have."""
    page_size = 256 if name == "flash_attn" else 16
    backend = make_paged(
        name, paged_spec("causal", 20, 64, torch.bfloat16, False, page_size, "cuda")
    )
    queries, pages = np.array(query_lens), 2048 // page_size
    table = np.random.default_rng(0).permutation(4 * pages).reshape(4, pages).astype(np.int32)
    k_pages, v_pages = torch.randn(
        2, 4 * pages, page_size, 20, 64, device="cuda", dtype=torch.bfloat16
    )
    q = torch.randn(sum(captured), 20, 64, device="cuda", dtype=torch.bfloat16)
    bound = np.full(4, 2048)
    static = PagedBatch.of(np.array(captured), bound, table, torch.device("cuda"))
    metadata = backend.plan(static)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        backend.run(q, k_pages, v_pages, metadata)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = backend.run(q, k_pages, v_pages, metadata)
    for lengths in ([900, 5, 8, 2048], [33, 2048, 1000, 256], [1500, 1500, 1500, 1500]):
        now = PagedBatch.of(queries, np.array(lengths), table, torch.device("cuda"))
        padded = {"num_tokens": len(q), "max_query_len": max(captured)}  # as graphs pad them
        now = msgspec.structs.replace(now, **padded)
        static.kv_lens_on_device.copy_(now.kv_lens_on_device)
        static.cu_seqlens_q.copy_(now.cu_seqlens_q)
        backend.replan(metadata, now)
        graph.replay()
        start = 0
        for row, (count, length) in enumerate(zip(query_lens, lengths, strict=True)):
            rows = slice(start, start := start + count)
            k, v = (
                pages[torch.from_numpy(table[row]).cuda()].flatten(0, 1)[:length]
                for pages in (k_pages, v_pages)
            )
            close(
                out[rows],
                plain_attention(q[rows], k, v, backend.spec.scale, None, length - count, True),
                torch.bfloat16,
            )


def test_splits_that_join_themselves_never_race() -> None:
    """The program that arrives last reads what the others wrote.

    A missing barrier would show as an error that comes and goes.
    """
    from antiphon.attention.backends.triton import TritonMetadata

    backend = make_paged("triton", paged_spec("cross", 20, 64, torch.bfloat16, False, 16, "cuda"))
    k_pages, v_pages = torch.randn(2, 94, 16, 20, 64, device="cuda", dtype=torch.bfloat16)
    table = np.arange(94)[None]
    batch = PagedBatch.of(np.array([1]), np.array([1500]), table, torch.device("cuda"))
    metadata = backend.plan(batch)
    assert isinstance(metadata, TritonMetadata)
    assert metadata.launch.splits > 4
    q = torch.randn(1, 20, 64, device="cuda", dtype=torch.bfloat16)
    first = backend.run(q, k_pages, v_pages, metadata)
    for _ in range(2000):
        assert torch.equal(backend.run(q, k_pages, v_pages, metadata), first)


def test_a_strong_bias_decides_which_token_is_read() -> None:
    """T5's bias reaches every tile, near the diagonal and far from it."""
    backend = make_full("triton", full_spec(2, 64, torch.float32, True, "cuda"))
    bias = make_bias(2, True, "cuda")
    bias.weight.data.mul_(8)
    q, k, v = torch.randn(3, 500, 2, 64, device="cuda")
    out = backend.run(
        q, k, v, backend.plan(FullBatch.of(np.array([500]), torch.device("cuda"))), bias
    )
    close(out, plain_attention(q, k, v, backend.spec.scale, bias, 0, False), torch.float32)
