"""Attention to hidden states in Triton's interpreter, which runs the kernel on the CPU.

bfloat16 is left to the GPU: the interpreter's dot treats it as integers.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from attention_cases import PAGED_LENGTHS, check_paged, paged_spec
from covering import covering
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

import triton.language as tl

from antiphon.attention.backends import triton as triton_backend
from antiphon.attention.backends.triton import TritonLatent
from antiphon.attention.interface import AttentionSpec
from antiphon.kernels import paged_splits
from antiphon.kernels.latent_launch import SHARED_BYTES, LatentLaunch, TritonTile

FLOAT8 = torch.float8_e4m3fn

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compiled there: see tests/gpu")


def spec_of(
    heads: int, width: int, dtype: torch.dtype, page_size: int = 4, kv: Any = None
) -> AttentionSpec:
    return paged_spec("latent", heads, width, dtype, page_size=page_size, kv=kv, kv_heads=1)


def launched_with(monkeypatch: pytest.MonkeyPatch, splits: int, chunk: int) -> None:
    """Fixes how launches are cut up; short sequences are split, some in fewer than others."""

    def cut(tile: TritonTile, *_: int) -> LatentLaunch[TritonTile]:
        features = -(-tile.features // chunk) * chunk
        return LatentLaunch(splits, replace(tile, features=features, chunk=chunk))

    monkeypatch.setattr(triton_backend.LatentLaunch, "choose", cut)
    monkeypatch.setattr(paged_splits, "LEAST_KEYS", tl.constexpr(16))


@covering(
    ways=1,
    dtypes=[(torch.float32, None), (torch.float16, None), (torch.bfloat16, FLOAT8)],
    heads=[(3, 40), (20, 96)],
    splits=[1, 3],
)
def test_states_in_chunks_and_splits(
    dtypes: tuple[torch.dtype, Any],
    heads: tuple[int, int],
    splits: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chunks that the width fills, and a last one that it does not; heads beyond one block."""
    launched_with(monkeypatch, splits, 32)
    backend = TritonLatent(spec_of(*heads, dtypes[0], kv=dtypes[1]))
    check_paged(backend, *PAGED_LENGTHS[1])
    check_paged(backend, *PAGED_LENGTHS[2])
    check_paged(backend, [8, 1, 3], [41, 70, 2])  # a draft's queries; more splits than keys


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_any_pages_and_lengths(data: st.DataObject) -> None:
    """Lengths have nothing to do with those of queries: an input may be shorter than a draft."""
    sequences = data.draw(st.integers(1, 3))
    lengths = st.lists(st.integers(1, 40), min_size=sequences, max_size=sequences)
    queries = st.lists(st.integers(1, 8), min_size=sequences, max_size=sequences)
    heads, page_size = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([1, 4, 16]))
    backend = TritonLatent(spec_of(heads, 24, torch.float32, page_size))
    check_paged(backend, data.draw(queries), data.draw(lengths), data.draw(st.integers(0, 9)))


@pytest.mark.parametrize(("heads", "queries"), [(12, 1), (20, 1), (32, 1), (20, 8)])
@pytest.mark.parametrize("width", [40, 768, 1024, 1280, 2048])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_tiles_fit_a_multiprocessor(heads: int, queries: int, width: int, itemsize: int) -> None:
    tile = TritonTile.of(heads * queries, width, itemsize)
    assert width <= tile.features < width + tile.chunk
    assert tile.features % tile.chunk == 0
    assert tile.stages * tile.tokens * tile.features * itemsize <= SHARED_BYTES
    assert tile.rows * tile.features * 4 <= 3 * 2**16, "sums in three quarters of the registers"
    assert tile.blocks(heads * queries) * tile.rows >= heads * queries


def test_splits_fill_the_device() -> None:
    def splits(sequences: int, tokens: int = 1500) -> int:
        return LatentLaunch.choose(TritonTile.of(20, 1280, 2), sequences, 20, tokens, 132).splits

    assert splits(1) == 16  # 12 of them have 128 tokens
    assert splits(1, 100) == 1
    assert splits(64) == 2
    assert splits(132) == 1
    assert splits(256) == 1
