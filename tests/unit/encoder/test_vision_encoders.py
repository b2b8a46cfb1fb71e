"""Vision encoders give what transformers gives, whole or as parts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranked_encoder import ranked_encoder
from tiny_vision import VISION, make, pixels, values

from antiphon.config.errors import UnsupportedModelError
from antiphon.config.options import resolve
from antiphon.config.parallel import Parallel
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig

SIDE = 24
NAMES = list(VISION)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    folders = {name: tmp_path_factory.mktemp(name) for name in NAMES}
    return {name: (folder, make(name, folder)) for name, folder in folders.items()}


def runner_of(folder: Path) -> EncoderRunner:
    config = resolve(str(folder), {"device": "cpu"})
    return EncoderRunner(ModelConfig.load(config.model), config)


@torch.inference_mode()
def expected(model: Any, image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Hidden states [tokens, hidden], and the pooled embedding."""
    vision = getattr(model, "vision_model", model)
    given = values(image)
    output = vision(pixel_values=given)
    pooled = getattr(output, "pooler_output", None)
    if hasattr(model, "get_image_features"):
        features = model.get_image_features(pixel_values=given)
        pooled = features if isinstance(features, torch.Tensor) else features.pooler_output
    elif hasattr(model, "visual_projection"):
        pooled = model(pixel_values=given).image_embeds
    return output.last_hidden_state.flatten(0, 1), pooled


def check_close(actual: torch.Tensor, wanted: torch.Tensor) -> None:
    assert actual.shape == wanted.shape
    assert (actual - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_and_embeddings_are_those_of_transformers(
    made: dict[str, tuple[Path, Any]], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, model = made[name]
    images = [pixels(seed, 1, 3, SIDE, SIDE) for seed in range(3)]
    with caplog.at_level("WARNING", "antiphon"):
        runner = runner_of(folder)
    assert caplog.messages == []  # every tensor is loaded, or ignored for a reason
    encoded = runner.encode(images)
    assert sum(encoded.lengths) == len(encoded.hidden)
    pooled = None
    for image, hidden in zip(images, encoded.hidden.split(encoded.lengths), strict=True):
        wanted, pooled = expected(model, image)
        check_close(hidden, wanted)
    if pooled is None:
        with pytest.raises(ValueError, match="no pooling"):
            runner.pool(encoded)
    else:
        wanted = torch.cat([expected(model, image)[1] for image in images])
        check_close(runner.pool(encoded), wanted)


def test_images_of_mixed_sizes_in_one_batch(made: dict[str, tuple[Path, Any]]) -> None:
    """Positions are interpolated; what is left over of a patch is not seen."""
    folder, model = made["internvit_300m"]
    shapes = [(1, 3, 24, 24), (2, 3, 40, 16), (1, 3, 16, 40), (1, 3, 24, 24), (1, 3, 8, 8)]
    images = [pixels(seed, *shape) for seed, shape in enumerate(shapes)]
    encoded = runner_of(folder).encode(images)
    for image, hidden in zip(images, encoded.hidden.split(encoded.lengths), strict=True):
        check_close(hidden, expected(model, image)[0])


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (pixels(0, 1, 3, 32, 24), "3 channels and 32 x 24 pixels: this model takes 24 x 24"),
        (pixels(0, 1, 1, 24, 24), "takes 3 channels"),
        (np.zeros(40, np.float32), "no image"),
        (np.full(40, np.nan, np.float32), "does not begin with an image's sizes"),
        (np.zeros(3, np.float32), "does not begin with an image's sizes"),
    ],
    ids=["size", "channels", "empty", "nan", "short"],
)
def test_images_that_the_encoder_cannot_take(
    made: dict[str, tuple[Path, Any]], image: np.ndarray, reason: str
) -> None:
    runner = runner_of(made["siglip_vision"][0])
    with pytest.raises(ValueError, match=reason):
        runner.encode([image])


@pytest.mark.parametrize(
    ("name", "parallel"),
    [
        ("internvit_6b", Parallel(tensor=2)),  # 5 heads: 3 and 2
        ("internvit_6b", Parallel(tensor=3, pipeline=2)),
        ("siglip_vision", Parallel(tensor=2, pipeline=2)),
        ("clip", Parallel(tensor=2, mode="data")),
        ("beit_shared", Parallel(tensor=2, pipeline=2)),
    ],
    ids=str,
)
def test_parts_of_an_encoder_give_the_same(
    made: dict[str, tuple[Path, Any]], name: str, parallel: Parallel
) -> None:
    folder, model = made[name]
    images = [pixels(seed, 1, 3, SIDE, SIDE) for seed in range(3)]
    with ranked_encoder(folder, parallel) as runner:
        encoded = runner.encode(images)
    for image, hidden in zip(images, encoded.hidden.split(encoded.lengths), strict=True):
        check_close(hidden, expected(model, image)[0])


def test_an_encoder_alone_has_no_decoder(made: dict[str, tuple[Path, Any]]) -> None:
    model = ModelConfig.load(resolve(str(made["vit"][0]), {}).model)
    assert model.max_decoder_len == 0
    with pytest.raises(UnsupportedModelError, match=r"encoder alone.*encode\(\)"):
        _ = model.decoder
