"""The Triton kernels of alignment in Triton's interpreter, against torch, on an engine's pages."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine
from tiny_models import FAMILIES
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.generation_whisper import _median_filter

pytest.importorskip("triton")

from antiphon.decoder import aligned_heads
from antiphon.decoder.aligned_heads import in_groups, with_rows
from antiphon.decoder.alignment import LaunchedAlignments, salience
from antiphon.kernels import alignment as kernels
from antiphon.scheduler.alignment import AlignedSequence, Alignment

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compiled there: see tests/gpu")
PROMPT = [61, 62, 65, 66]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Whisper with alignment heads in several layers."""
    folder = tmp_path_factory.mktemp("aligned")
    torch.manual_seed(3)
    model = FAMILIES["whisper"]().eval()
    model.generation_config.alignment_heads = [[0, 1], [1, 0], [1, 2], [2, 1]]
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80, chunk_length=1).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("options", "together"),
    [
        ({"kv_page_size": 8}, 4 * 60),
        ({"cross_attention": "latent"}, aligned_heads.MOST_WEIGHTS),
        ({"cross_attention": "latent", "kv_cache_dtype": "fp8"}, 1 << 20),
    ],
)
def test_scores_are_those_of_torch(
    folder: Path, options: dict[str, Any], together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sequences of several lengths and sounds that end in one step; all at once, or few."""
    monkeypatch.setattr(aligned_heads, "MOST_WEIGHTS", together)
    monkeypatch.setattr(kernels, "SMOOTH_ROWS", 32)
    engine = PlainEngine(folder, max_num_seqs=8, **options)
    aligner, counts = engine.replica.runner.aligner, list[int]()
    assert aligner is not None
    heads, launch = aligner.heads, aligner.launch
    assert heads.queries is not None

    def watched(sequences: list[AlignedSequence]) -> LaunchedAlignments:
        launched = launch(sequences)
        actual = heads.scores(heads.queries, sequences, 7, 1 / heads.queries.num_heads)
        for one, start, end in with_rows(sequences):
            own, right = (scores[start:end, : one.frames] for scores in (actual, launched.scores))
            torch.testing.assert_close(own, right, atol=1e-4, rtol=1e-4)
            assert right.abs().max() > 0.1
        counts.append(len(sequences))
        return launched

    monkeypatch.setattr(aligner, "launch", watched)
    rng = np.random.default_rng(1)
    for number in range(5):
        clip = (rng.standard_normal(12_000) * 0.1).astype(np.float32)
        asked = Alignment(0, len(PROMPT), [37, 2, 50, 37, 4][number])
        engine.submit(engine.request(clip, PROMPT, [9, 15][number % 2], alignment=asked))
    ends = engine.run()
    assert all(end.frames is not None for end in ends.values())
    assert sum(counts) == 5
    assert max(counts) > 1


@pytest.mark.parametrize(
    ("width", "frames"), [(1, 5), (3, 1), (3, 2), (7, 3), (7, 4), (7, 70), (9, 12)]
)
def test_medians_of_any_width(width: int, frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And rows of more than a tile, of two sequences; one row alone stands out nowhere. Keys are
    read in whatever dtype the cache has."""
    monkeypatch.setattr(kernels, "SMOOTH_ROWS", 16)
    generator = torch.Generator().manual_seed(frames)
    heads, head_dim, rows = 3, 8, [21, 1]
    queries, sound = (
        torch.randn(count, heads, head_dim, generator=generator) for count in (sum(rows), frames)
    )
    stored = sound.to(torch.float8_e4m3fn) if width == 3 else sound
    sound = stored.float()
    keys = kernels.Keys(stored, torch.arange(heads) * head_dim, heads * head_dim, 0, 1)
    starts, counts = torch.tensor([0, 21, 22]).int(), torch.tensor([frames, frames]).int()
    pages, places = torch.arange(frames).int().repeat(2, 1), torch.arange(sum(rows)).int()
    actual = kernels.scores(
        queries, keys, pages, places, starts, counts, max(rows), frames,
        scale=0.5, width=width, share=0.25,
    )  # fmt: skip
    product = torch.einsum("rhd,fhd->hrf", queries[:21], sound) * 0.5
    expected = _median_filter(salience(product.softmax(-1)), width).sum(0) / 4
    torch.testing.assert_close(actual[:21], expected, atol=1e-5, rtol=1e-4)
    assert not actual[21].any()


@pytest.mark.parametrize("count", [3, 7])
def test_equal_rows_stand_out_nowhere(count: int) -> None:
    """Whatever the mean of equal weights is rounded to."""
    queries = torch.randn(1, 2, 16, generator=torch.Generator().manual_seed(1))
    sound = torch.randn(30, 2, 16, generator=torch.Generator().manual_seed(2))
    keys = kernels.Keys(sound, torch.arange(2) * 16, 32, 0, 1)
    ints = partial(torch.tensor, dtype=torch.int32)
    actual = kernels.scores(
        queries, keys, torch.arange(30).int()[None], ints([0] * count), ints([0, count]),
        ints([30]), count, 30, scale=1.0, width=1, share=1.0,
    )  # fmt: skip
    assert not actual.any()


def test_groups_hold_all_in_order() -> None:
    sizes = [(3, 10), (2, 10), (9, 40), (1, 1), (1, 60), (1, 1)]
    all_of_them = [AlignedSequence(0, np.zeros(rows, int), 1, frames) for rows, frames in sizes]
    groups = list(in_groups(all_of_them, 60))
    assert [len(group) for group in groups] == [2, 1, 1, 1, 1]
    assert [one for group in groups for one in group] == all_of_them
    assert len(list(in_groups(all_of_them, 10**6))) == 1
    assert len(list(in_groups(all_of_them, 600))) == 2
    assert len(list(in_groups(all_of_them, 600, 10))) == 5  # each is some rows longer
