"""What encoder graphs read, and the shapes that they are captured for.

They are captured on a GPU alone (tests/gpu): here a stand-in computes again what a graph holds.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_graphs import load, with_graphs
from hypothesis import given
from hypothesis import strategies as st

from antiphon.attention.specs import encoder_spec
from antiphon.encoder.frontends.audio import kept_rows
from antiphon.encoder.frontends.text import FREE_PADDING_TOKENS, choose_shape, text_shapes
from antiphon.encoder.graphs import EncoderGraphs, NoGraph
from antiphon.families.checkpoint import ModelConfig

# ---------------------------------------------------------------------- text


@given(st.lists(st.integers(1, 600), min_size=1, max_size=60), st.integers(32, 9000))
def test_the_text_shape_chosen_holds_the_batch(lengths: list[int], most: int) -> None:
    shapes, tokens = text_shapes(most), sum(lengths)
    assert shapes[-1].tokens == most
    assert all(b.tokens - a.tokens <= max(32, a.tokens // 8) for a, b in itertools.pairwise(shapes))
    shape = choose_shape(np.array(lengths), shapes[::-1])
    assert shape == choose_shape(np.array(lengths), shapes)
    if not isinstance(shape, str):
        assert shape.tokens >= tokens
        assert shape.sequences >= len(lengths)
        assert shape.tokens <= max(FREE_PADDING_TOKENS, 2 * tokens)
    elif len(lengths) <= 8:
        assert tokens > most


def test_why_texts_run_without_a_graph() -> None:
    shapes = text_shapes(8192)
    assert choose_shape(np.array([9000]), shapes) == "no graph holds 1 texts of 9000 tokens"
    assert choose_shape(np.full(60, 1), shapes) == (
        "padding 60 tokens to 4096, for 60 texts, costs more than a graph saves"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="captured for real there: see tests/gpu")
@pytest.mark.parametrize("name", ["bart", "t5"])
def test_padded_texts_are_encoded_as_without_padding(
    name: str, checkpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    from antiphon.attention.backends.triton import TritonFull  # in Triton's interpreter

    model, runner = load(checkpoints(name)[0])
    model, padded = load(checkpoints(name)[0])
    attention = TritonFull(encoder_spec(model.encoder, padded.target))
    with_graphs(model, padded, attention, 96, monkeypatch)
    assert isinstance(padded.graphs, EncoderGraphs)
    # Long texts first: what they leave behind in the buffers must not matter.
    for lengths in ([40, 3, 30], [7], [1, 20, 2], [5] * 8):
        texts = [
            np.random.default_rng(length).integers(3, 90, length).astype(np.int32)
            for length in lengths
        ]
        assert not isinstance(padded.choose_graph(padded.frontend.pack(texts)), NoGraph)
        expected, encoded = runner.encode(texts), padded.encode(texts)
        assert encoded.lengths == expected.lengths == lengths
        torch.testing.assert_close(encoded.hidden, expected.hidden, atol=1e-4, rtol=1e-4)
    too_long = padded.frontend.pack([np.full(97, 5, np.int32)])
    assert padded.choose_graph(too_long) == NoGraph("no graph holds 1 texts of 97 tokens")


def test_token_ids_outside_the_vocabulary_are_refused(checkpoints: Any) -> None:
    _, runner = load(checkpoints("bart")[0])
    with pytest.raises(ValueError, match="token ids must be within 0 and 98"):
        runner.encode([np.array([3, 99], np.int32)])


# ---------------------------------------------------------------------- audio


def clips(model: ModelConfig, shares: list[float]) -> list[np.ndarray]:
    """Noise that fills these shares of the model's window."""
    assert model.audio is not None
    rng = np.random.default_rng(1)
    return [
        (rng.standard_normal(int(share * model.audio.window)) * 0.1).astype(np.float32)
        for share in shares
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="captured for real there: see tests/gpu")
def test_windows_from_graphs_are_encoded_as_without(
    checkpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, runner = load(checkpoints("whisper")[0])
    model, replayed = load(checkpoints("whisper")[0])
    assert model.audio is not None
    with_graphs(model, replayed, replayed.attention, 2 * model.audio.tokens + 1, monkeypatch)
    for shares in ([0.9, 1.0], [0.3], [0.5, 0.1]):
        sounds = clips(model, shares)
        assert not isinstance(replayed.choose_graph(replayed.frontend.pack(sounds)), NoGraph)
        expected, encoded = runner.encode(sounds), replayed.encode(sounds)
        assert encoded.lengths == expected.lengths == [model.audio.tokens] * len(shares)
        torch.testing.assert_close(encoded.hidden, expected.hidden)
    batch = replayed.frontend.pack(clips(model, [0.2] * 3))
    assert replayed.choose_graph(batch) == NoGraph("3 windows are more than the largest graph's 2")
    assert replayed.encode(clips(model, [0.2] * 3)).lengths == [model.audio.tokens] * 3


def test_why_audio_runs_without_a_graph(
    whisper_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, runner = load(whisper_folder, encoder_window="auto", enforce_eager=True)
    short = runner.frontend.pack(clips(model, [0.2]))
    assert runner.choose_graph(short) == NoGraph("enforce_eager is set")
    with_graphs(model, runner, runner.attention, 400, monkeypatch)
    assert runner.choose_graph(short) == NoGraph("short windows have no graphs")
    assert not isinstance(runner.choose_graph(runner.frontend.pack(clips(model, [1.0]))), NoGraph)


def test_on_a_cpu_there_are_no_graphs(checkpoints: Any) -> None:
    _, runner = load(checkpoints("bart")[0])
    assert runner.graphs == NoGraph("there are no CUDA graphs on cpu")


def test_rows_that_short_windows_keep() -> None:
    kept = kept_rows(np.array([2, 4]), 4)
    assert kept is not None
    assert kept.tolist() == [0, 1, 4, 5, 6, 7]
    assert kept_rows(np.array([4, 4]), 4) is None
