"""Qwen's vision encoders: rotary positions, windows and merging as transformers has them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranked_encoder import ranked_encoder
from tiny_vision import PATCH_FEATURES, QWEN, qwen_pixels, save, values

from antiphon.config.options import resolve
from antiphon.config.parallel import Parallel
from antiphon.encoder.models.qwen_vision import QwenVisionEncoder, frame_order, kept_order
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageShape

# Windows are 2 x 2 merged patches: whole, cut at the right, at the bottom; several frames.
GRIDS = [(1, 8, 8), (1, 2, 2), (3, 4, 10), (1, 10, 6), (1, 8, 8), (2, 2, 4)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    folders = {name: tmp_path_factory.mktemp(name) for name in QWEN}
    return {name: (folder, save(QWEN[name](), folder)) for name, folder in folders.items()}


@torch.inference_mode()
def expected(model: Any, image: np.ndarray) -> torch.Tensor:
    patches = values(image)
    output = model(patches.flatten(0, 2), grid_thw=torch.tensor([patches.shape[:3]]))
    merged: torch.Tensor = output.pooler_output
    return merged


def check(model: Any, images: list[np.ndarray], encoded: Any) -> None:
    for image, rows in zip(images, encoded.hidden.split(encoded.lengths), strict=True):
        wanted = expected(model, image)
        assert rows.shape == wanted.shape
        assert (rows - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("name", list(QWEN))
def test_images_and_videos_of_mixed_sizes_in_one_batch(
    made: dict[str, tuple[Path, Any]], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, model = made[name]
    config = resolve(str(folder), {"device": "cpu"})
    with caplog.at_level("WARNING", "antiphon"):
        runner = EncoderRunner(ModelConfig.load(config.model), config)
    assert caplog.messages == []
    images = [qwen_pixels(seed, *grid) for seed, grid in enumerate(GRIDS)]
    check(model, images, runner.encode(images))


@pytest.mark.parametrize(
    "parallel",
    [Parallel(tensor=2), Parallel(tensor=3, pipeline=3), Parallel(tensor=2, mode="data")],
    ids=str,
)
def test_parts_give_the_same(made: dict[str, tuple[Path, Any]], parallel: Parallel) -> None:
    folder, model = made["qwen2_5_vl"]
    images = [qwen_pixels(seed, *grid) for seed, grid in enumerate(GRIDS)]
    with ranked_encoder(folder, parallel) as runner:
        check(model, images, runner.encode(images))


def test_patches_that_cannot_be_merged(made: dict[str, tuple[Path, Any]]) -> None:
    config = resolve(str(made["qwen2_vl"][0]), {"device": "cpu"})
    runner = EncoderRunner(ModelConfig.load(config.model), config)
    with pytest.raises(ValueError, match=f"3 x 4 patches of {PATCH_FEATURES} numbers"):
        runner.encode([qwen_pixels(0, 1, 3, 4)])


def test_sequences_are_counted_and_what_fills_graphs_is_not_kept(
    made: dict[str, tuple[Path, Any]],
) -> None:
    for name in QWEN:
        config = resolve(str(made[name][0]), {"device": "cpu"})
        encoder = EncoderRunner(ModelConfig.load(config.model), config).model
        assert isinstance(encoder, QwenVisionEncoder)
        images = [ImageShape((*grid, PATCH_FEATURES)) for grid in GRIDS]
        encoder.layout(images)
        kept = kept_order.cache_info().currsize
        for missing in range(4, 400, 4):
            filled = [*images, encoder.filler(missing)]
            lengths = encoder.layout(filled).lengths
            assert encoder.sequences(filled) == {key: len(each) for key, each in lengths.items()}
        assert kept_order.cache_info().currsize == kept


def test_windows_of_a_grid_that_they_do_not_divide() -> None:
    order = frame_order(6, 10, merge=2, window=2)  # 3 x 5 merged patches
    assert order.groups.tolist() == [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]
    assert order.windows.tolist() == [16, 16, 8, 8, 8, 4]
    assert order.row[:4].tolist() == [0, 0, 1, 1]
    assert order.column[:4].tolist() == [0, 1, 0, 1]
