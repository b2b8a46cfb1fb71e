"""On a CUDA device: pictures are resized to Pillow's gray levels, and encoders take them.

python -m pytest -m gpu tests/gpu/test_resizing.py
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_vlms import make_vlm, picture

from antiphon.config.options import resolve
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageHalf
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.images.processor import ImageProcessor
from antiphon.inputs.images.resizing import Filter, resize
from antiphon.inputs.images.views import by_rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
FILTERS: dict[Filter, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
SIZES = [((224, 224), (384, 384)), ((1344, 1000), (980, 728)), ((3000, 64), (28, 56))]


@pytest.mark.parametrize("kind", list(FILTERS))
@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_gray_levels_are_pillows(
    size: tuple[int, int], wanted: tuple[int, int], kind: Filter
) -> None:
    levels = np.random.default_rng(3).integers(0, 2, (*size, 3), np.uint8) * 255
    expected = np.asarray(Image.fromarray(levels).resize(wanted[::-1], FILTERS[kind]))
    on_device = torch.tensor(levels, device="cuda").permute(2, 0, 1).float()
    made = resize(on_device, wanted, kind, by_rows(size, wanted))
    assert np.array_equal(made.permute(1, 2, 0).cpu().numpy(), expected)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision", "internvl"])
def test_encoders_make_the_same_of_pictures(name: str, tmp_path: Path) -> None:
    make_vlm(name, tmp_path)
    options = {"device": "cuda", "dtype": "float32", "enforce_eager": True}
    config = resolve(str(tmp_path), options)
    model = ModelConfig.load(config.model)
    half = model.encoder
    assert isinstance(half, ImageHalf)
    runner = EncoderRunner(model, config)
    settings = {"crop_to_patches": True} if name == "internvl" else {}
    host, device = (
        [
            ImageProcessor(tmp_path, half, settings=settings, resizing=where)
            .encoder_input(picture(seed, *size))
            .payload
            for seed, size in enumerate([(40, 24), (24, 24), (100, 20)])
        ]
        for where in ("host", "device")
    )
    assert {array.dtype for array in device} == {np.dtype(np.uint8)}
    made_here = [rendered(payload) for payload in device]
    # A processor of torchvision's has other gray levels than Pillow, which was asked for.
    for payload, values in zip(host, made_here, strict=True):
        difference = Pixels.unpacked(payload).values - values.values
        rendering = Pixels.unpacked(device[0]).rendering
        assert rendering is not None
        assert np.abs(rendering.levels(difference)).max() <= 1.01
    expected = runner.encode([pixels.packed() for pixels in made_here])
    made = runner.encode(device)
    assert made.lengths == expected.lengths
    torch.testing.assert_close(made.hidden, expected.hidden, rtol=1e-4, atol=1e-4)


def rendered(payload: np.ndarray) -> Pixels:
    """Of a picture, by a CPU."""
    picture = Pixels.unpacked(payload)
    assert picture.rendering is not None
    values = picture.rendering.values(torch.tensor(picture.values))
    return Pixels(picture.shape, values.numpy())
