"""Images come out of the checkpoint's own processor as encoders take them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_vision import SIZES
from transformers import Qwen2VLImageProcessorPil, SiglipImageProcessorPil, SiglipVisionConfig
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig

from antiphon.config.errors import CheckpointError, ImageError
from antiphon.families.image_halves import ImageHalf
from antiphon.families.vit_like import vision_half
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.images.processor import ImageProcessor

HALVES: dict[str, ImageHalf] = {
    "siglip": vision_half(SiglipVisionConfig(**SIZES).to_dict()),
    "qwen": vision_half(Qwen2VLVisionConfig().to_dict()),
}


@pytest.fixture(scope="module")
def processors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ImageProcessor]:
    made = {}
    for name, processor in (
        ("siglip", SiglipImageProcessorPil(size={"height": 24, "width": 24})),
        ("qwen", Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=112 * 112)),
    ):
        folder = tmp_path_factory.mktemp(name)
        processor.save_pretrained(folder)
        made[name] = ImageProcessor(folder, HALVES[name])
    return made


def picture(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def test_one_tile_of_the_size_that_the_encoder_takes(
    processors: dict[str, ImageProcessor],
) -> None:
    media = processors["siglip"].encoder_input(picture(50, 30))
    assert (media.kind, media.num_tokens, media.position) == ("image", 9, None)
    image = Pixels.unpacked(media.payload)
    assert image.shape.pixels == (1, 3, 24, 24)
    assert image.shape.size == (30, 50)
    wanted = SiglipImageProcessorPil(size={"height": 24, "width": 24})(
        [picture(50, 30)], return_tensors="np"
    )["pixel_values"]
    assert np.array_equal(image.values, wanted)


def test_patches_with_the_grid_that_they_form(processors: dict[str, ImageProcessor]) -> None:
    media = processors["qwen"].encoder_input(picture(90, 60), position=3)
    frames, rows, columns, features = Pixels.unpacked(media.payload).shape.pixels
    assert (frames, features) == (1, 3 * 2 * 14 * 14)
    assert media.num_tokens == rows * columns // 4
    assert media.position == 3


def test_equal_images_have_equal_keys(processors: dict[str, ImageProcessor]) -> None:
    keys = [processors["siglip"].encoder_input(picture(*size)).key for size in ((9, 5), (9, 5))]
    assert keys[0] == keys[1]
    assert processors["siglip"].encoder_input(picture(9, 6)).key != keys[0]


def test_one_pixel_and_images_that_the_processor_refuses(
    processors: dict[str, ImageProcessor],
) -> None:
    assert processors["siglip"].encoder_input(picture(1, 1)).num_tokens == 9
    with pytest.raises(ImageError, match="900 x 1 pixels"):
        processors["qwen"].encoder_input(picture(900, 1))


def test_a_checkpoint_without_a_processor(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no preprocessor_config"):
        ImageProcessor(tmp_path, HALVES["siglip"])
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be used"):
        ImageProcessor(tmp_path, HALVES["siglip"])
