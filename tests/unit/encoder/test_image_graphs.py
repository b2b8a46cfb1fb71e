"""What graphs of image encoders read: a stand-in computes again what a graph would hold (see
tests/gpu/test_image_graphs.py for real ones)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_graphs import ReadsLengths, load, with_graphs
from hypothesis import given
from hypothesis import strategies as st
from image_batches import ENCODERS, image_batches, make_encoder
from made_once import made_once
from tiny_mllama import make_mllama
from tiny_vision import pixels

from antiphon.attention.interface import FullAttention
from antiphon.attention.specs import encoder_spec
from antiphon.encoder.frontends.graph_sizes import graph_sizes
from antiphon.encoder.graphs import EncoderGraphs, NoGraph
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="captured for real there")
MOST = {"same": 600, "any": 60}  # rows of a batch: more than are encoded here
Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    get = made_once(make_encoder, tmp_path_factory)
    return lambda name: get(name)[0]


def backend(model: ModelConfig, runner: EncoderRunner) -> FullAttention[Any]:
    """One that graphs can hold: for any lengths, where images have any sizes."""
    if runner.frontend.graph_lengths == "same":
        return runner.attention
    assert model.encoder is not None
    return ReadsLengths(encoder_spec(model.encoder, runner.target))


@pytest.mark.parametrize("name", ENCODERS)
def test_images_from_graphs_are_encoded_as_without(
    name: str, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(name)
    _, eager = load(folder)
    model, runner = load(folder)
    most = MOST[runner.frontend.graph_lengths]
    with_graphs(model, runner, backend(model, runner), most, monkeypatch)
    assert isinstance(runner.graphs, EncoderGraphs)
    for images in image_batches(folder):
        assert not isinstance(runner.choose_graph(runner.frontend.pack(images)), NoGraph)
        expected, encoded = eager.encode(images), runner.encode(images)
        assert encoded.lengths == expected.lengths
        assert encoded.hidden.shape == expected.hidden.shape
        largest = expected.hidden.abs().max()
        assert (encoded.hidden - expected.hidden).abs().max() <= 1e-4 * largest


def test_what_graphs_leave_is_not_what_was_returned(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made("clip")
    model, runner = load(folder)
    with_graphs(model, runner, runner.attention, MOST["same"], monkeypatch)
    first, *_, last = image_batches(folder)
    encoded = runner.encode(first)
    kept = encoded.hidden.clone()
    runner.encode(last)
    assert torch.equal(encoded.hidden, kept)


def test_why_tiles_run_without_a_graph(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    model, runner = load(made("internvit_6b"))
    with_graphs(model, runner, runner.attention, 35, monkeypatch)  # a tile has 10 rows

    def chosen(*shapes: tuple[int, int, int, int]) -> Any:
        images = [pixels(seed, *shape) for seed, shape in enumerate(shapes)]
        assert runner.encode(images).lengths  # whatever it runs in
        return runner.choose_graph(runner.frontend.pack(images))

    assert chosen((1, 3, 24, 24), (2, 3, 24, 24)).tiles == 3
    assert chosen((4, 3, 24, 24)) == NoGraph("4 tiles are more than the largest graph's 3")
    assert chosen((1, 3, 24, 24), (1, 3, 40, 16)) == NoGraph(
        "tiles of 24 x 24 pixels have graphs, those of 40 x 16 have none"
    )


def test_why_patches_run_without_a_graph(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    model, runner = load(made("qwen2_vl"))
    with_graphs(model, runner, backend(model, runner), 32, monkeypatch)  # of 4 patches each
    features = model.encoder.patch_features  # type: ignore[union-attr]

    def chosen(count: int, *grid: int) -> Any:
        images = [pixels(seed, *grid, features) for seed in range(count)]
        return runner.choose_graph(runner.frontend.pack(images))

    assert chosen(1, 1, 8, 8).tokens == 64
    assert chosen(1, 1, 2, 2).tokens == 32
    assert chosen(1, 1, 12, 12) == NoGraph("no graph holds 1 images of 144 tokens")
    assert chosen(30, 1, 2, 2) == NoGraph("no graph holds 30 images of 120 tokens")


def test_encoders_without_a_usual_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_mllama(tmp_path)
    model, runner = load(tmp_path)
    with_graphs(model, runner, runner.attention, MOST["same"], monkeypatch)
    assert runner.graphs == NoGraph("batches of these images have no one shape")


@given(st.integers(1, 3000), st.sampled_from([1, 4, 32]))
def test_padding_is_an_eighth(most: int, unit: int) -> None:
    sizes = graph_sizes(most, unit)
    assert sizes[-1] == most
    assert sizes == sorted(set(sizes))
    for before, size in zip([0, *sizes], sizes, strict=False):
        assert size - before <= max(unit, before // 8)


def test_batches_of_patches_are_no_larger_than_their_graphs(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, most in (("qwen2_5_vl", MOST["any"]), ("clip", 16_384)):
        model, runner = load(made(name))
        assert runner.batch_tokens == 16_384
        with_graphs(model, runner, backend(model, runner), MOST["any"], monkeypatch)
        assert runner.batch_tokens == most
