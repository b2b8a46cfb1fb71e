"""Images that an encoder's device resizes, cuts and norms: as Pillow and transformers do it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_vlms import make_vlm, picture
from transformers import (
    CLIPImageProcessorPil,
    GotOcr2ImageProcessorPil,
    LlavaOnevisionImageProcessorPil,
    Qwen2VLImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import ModelOptions, resolve
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageHalf, ImageShape
from antiphon.inputs.images import views
from antiphon.inputs.images.limits import ImageLimits
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.images.processor import ImageProcessor
from antiphon.inputs.images.resizing import Filter, resize
from antiphon.inputs.images.views import Views

SIDES = st.integers(1, 150)
FILTERS: dict[Filter, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.sampled_from(sorted(FILTERS)), SIDES)
@settings(max_examples=60, deadline=None)
def test_gray_levels_are_pillows(
    size: tuple[int, int], wanted: tuple[int, int], kind: Filter, seed: int
) -> None:
    """Also where all levels are black or white, so that curves swing beyond them."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 256 if seed % 2 else 2, (*size, 3), np.uint8)
    levels = levels if seed % 2 else levels * 255
    (height, width) = wanted
    expected = np.asarray(Image.fromarray(levels).resize((width, height), FILTERS[kind]))
    rows_first = views.by_rows(size, wanted)
    made = resize(torch.tensor(levels).permute(2, 0, 1).float(), wanted, kind, rows_first)
    assert np.array_equal(made.permute(1, 2, 0).numpy(), expected)


PROCESSORS: dict[str, Callable[[], Any]] = {
    "CLIP, the middle": CLIPImageProcessorPil,
    "SigLIP": lambda: SiglipImageProcessorPil(size={"height": 48, "width": 40}),
    "ViT": lambda: ViTImageProcessorPil(size={"height": 48, "width": 48}),
    "Qwen": lambda: Qwen2VLImageProcessorPil(
        size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 20}
    ),
    "LLaVA-OneVision": lambda: LlavaOnevisionImageProcessorPil(
        size={"height": 48, "width": 48},
        image_grid_pinpoints=[[48, 48], [48, 96], [96, 48], [96, 96], [96, 144]],
    ),
    "InternVL": lambda: GotOcr2ImageProcessorPil(
        size={"height": 48, "width": 48}, crop_to_patches=True, max_patches=6
    ),
}


@pytest.mark.parametrize("name", list(PROCESSORS))
def test_values_are_those_of_transformers(name: str) -> None:
    processor = PROCESSORS[name]()
    known = Views.of(processor, {})
    assert known is not None
    for number, (height, width) in enumerate([(90, 40), (40, 120), (331, 200), (56, 56), (30, 31)]):
        image = picture(number, width, height)
        rendering = known.of_picture((height, width), True)
        assert rendering is not None
        expected = np.asarray(processor([image], return_tensors="np")["pixel_values"])
        size = (height, width)
        sent = Pixels(ImageShape(rendering.shape, size), np.asarray(image), rendering=rendering)
        packed = sent.packed()
        assert packed.nbytes < 3 * height * width + 400
        got = Pixels.unpacked(packed)
        assert got.shape == sent.shape
        assert got.rendering is not None
        values = got.rendering.values(torch.tensor(got.values))
        assert tuple(values.shape) == rendering.shape
        assert np.abs(values.numpy() - expected.reshape(rendering.shape)).max() < 1e-5


def test_bytes_that_are_no_picture_are_refused() -> None:
    rendering = Views.of(SiglipImageProcessorPil(), {}).of_picture((4, 5), True)
    picture_ = np.zeros((4, 5, 3), np.uint8)
    packed = Pixels(ImageShape(rendering.shape), picture_, rendering=rendering).packed()
    for broken in (packed[:-1], packed[:20], np.zeros(0, np.uint8), np.zeros(64, np.uint8)):
        with pytest.raises(ValueError, match=r"does not begin|no picture|no image"):
            Pixels.unpacked(broken)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "llava_onevision", "internvl"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    make_vlm(request.param, folder)
    return folder


def test_encoders_take_both_forms_in_one_batch(checkpoint: Path) -> None:
    config = resolve(str(checkpoint), {"device": "cpu"})
    model = ModelConfig.load(config.model)
    half = model.encoder
    assert isinstance(half, ImageHalf)
    settings_ = {"crop_to_patches": True} if model.family.name == "internvl" else {}
    host, device = (
        ImageProcessor(checkpoint, half, settings=settings_, resizing=where)
        for where in ("host", "device")
    )
    runner = EncoderRunner(model, config)
    for alone in (True, False):
        pictures = [
            picture(seed, *size) for seed, size in enumerate([(40, 24), (24, 24), (100, 20)])
        ]
        ready = [host.encoder_input(image, alone=alone) for image in pictures]
        raw = [device.encoder_input(image, alone=alone) for image in pictures]
        assert [each.num_tokens for each in raw] == [each.num_tokens for each in ready]
        assert raw[1].payload.dtype == np.uint8
        assert raw[1].key != ready[1].key
        expected = runner.encode([each.payload for each in ready])
        mixed = [ready[0], raw[1], raw[2]]
        for payloads in ([each.payload for each in raw], [each.payload for each in mixed]):
            encoded = runner.encode(payloads)
            assert encoded.lengths == expected.lengths
            torch.testing.assert_close(encoded.hidden, expected.hidden, rtol=1e-4, atol=1e-4)


def test_large_pictures_are_resized_on_the_host(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = ModelConfig.load(ModelOptions(str(checkpoint))).encoder
    assert isinstance(half, ImageHalf)
    monkeypatch.setattr(views, "MOST_PIXELS", 150_000)
    processor = ImageProcessor(checkpoint, half, resizing="device")
    assert processor.encoder_input(picture(1, 40, 24)).payload.dtype == np.uint8
    assert processor.encoder_input(picture(1, 400, 400)).payload.dtype == np.float32


def test_what_would_travel_larger_stays_unless_the_device_is_asked_for(tmp_path: Path) -> None:
    make_vlm("internvl", tmp_path)
    half = ModelConfig.load(ModelOptions(str(tmp_path))).encoder
    assert isinstance(half, ImageHalf)
    large, small = picture(1, 600, 600), picture(1, 12, 12)
    auto, device = (ImageProcessor(tmp_path, half, resizing=way) for way in ("auto", "device"))
    assert auto.encoder_input(small).payload.dtype == np.uint8
    assert auto.encoder_input(large).payload.dtype == np.float32
    assert device.encoder_input(large).payload.dtype == np.uint8


def test_where_it_is_done_follows_the_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for seen, resizing in ((False, "host"), (True, "auto")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda seen=seen: seen)
        assert ImageLimits.of(ModelOptions("")).resizing == resizing
        assert ImageLimits.of(ModelOptions("", device="cpu")).resizing == "host"
        for way in ("host", "device"):
            assert ImageLimits.of(ModelOptions("", image_resizing=way)).resizing == way
    SiglipImageProcessorPil(size={"height": 24, "width": 24}, resample=1).save_pretrained(tmp_path)
    half = None
    with pytest.raises(ConfigurationError, match="image_resizing='device' is not possible"):
        ImageProcessor(tmp_path, half, resizing="device")
    ImageProcessor(tmp_path, half, resizing="auto")
