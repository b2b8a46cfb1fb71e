"""Which frames of a video are read, in which forms, and the patches that they become."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from antiphon.config.errors import VideoError
from antiphon.families import llava_onevision
from antiphon.families.image_halves import VitHalf
from antiphon.families.qwen_vision import qwen2_vl
from antiphon.families.qwen_vision_half import QwenVisionHalf
from antiphon.inputs.images.frame_processor import MOST_FRAMES, FrameProcessor
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.images.video_processor import VideoProcessor, settings_of, stated
from antiphon.inputs.images.videos import FrameSampling, read_video
from antiphon.inputs.prompts import parse

SAMPLING = FrameSampling()
VISION = {
    "embed_dim": 16, "depth": 1, "num_heads": 2, "hidden_size": 16, "mlp_ratio": 2,
    "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip


def frames(count: int, width: int = 24, height: int = 16) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), np.uint8)


def film(images: np.ndarray, rate: int = 8) -> bytes:
    import av  # which a GPU machine may lack

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *images.shape[1:3], "bgr0"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


@settings(deadline=None)
@given(total=st.integers(1, 3000), rate=st.floats(1, 120))
def test_frames_are_spread_evenly(total: int, rate: float) -> None:
    indices = SAMPLING.indices(total, rate)
    assert (np.diff(indices) > 0).all()
    assert 0 <= indices[0] <= indices[-1] < total
    assert len(indices) <= SAMPLING.most
    if total > 4:
        wanted = min(max(total / rate * 2, 4), min(768, total) // 2 * 2) // 2 * 2
        assert len(indices) == wanted
        torch_indices = torch.arange(0, total, total / wanted).int()[: len(indices)]
        assert indices.tolist() == torch_indices.tolist()


def test_files_are_read_as_their_frames(tmp_path: Path) -> None:
    """Of 24 frames in three seconds, two a second: every fourth one."""
    images = frames(24)
    file = film(images)
    (tmp_path / "film.mkv").write_bytes(file)
    for source in (file, tmp_path / "film.mkv", str(tmp_path / "film.mkv"), io.BytesIO(file)):
        video = read_video(source, SAMPLING)
        assert video.fps == pytest.approx(2.0)
        np.testing.assert_array_equal(np.stack(video.frames), images[::4])
    assert read_video(images, SAMPLING).fps == 24.0
    assert read_video((images, {"fps": 3}), SAMPLING).fps == 3.0
    assert len(read_video([Image.fromarray(image) for image in images], SAMPLING).frames) == 24
    few = FrameSampling(count=3)
    np.testing.assert_array_equal(np.stack(read_video(file, few).frames), images[::6])


def test_limits_of_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Just within, and just over. Of a file of eight frames four are read, of 24 x 16 pixels."""
    images = frames(8)
    file, area = film(images, 4), 24 * 16
    for count, source in ((4, file), (8, images)):
        monkeypatch.setattr("antiphon.inputs.images.videos.MAX_VIDEO_PIXELS", count * area)
        assert len(read_video(source, SAMPLING).frames) == count
        monkeypatch.setattr("antiphon.inputs.images.videos.MAX_VIDEO_PIXELS", count * area - 1)
        with pytest.raises(VideoError, match=f"over the limit of {count * area - 1}"):
            read_video(source, SAMPLING)
    monkeypatch.undo()
    monkeypatch.setattr("antiphon.inputs.images.videos.MAX_VIDEO_FRAMES", 8)
    assert len(read_video(file, SAMPLING).frames) == 4
    monkeypatch.setattr("antiphon.inputs.images.videos.MAX_VIDEO_FRAMES", 7)
    with pytest.raises(VideoError, match="8 frames are over the limit of 7"):
        read_video(file, SAMPLING)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"no video", "8 bytes: not readable as a video"),
        (frames(1)[0], r"frames of shape \[16, 24, 3\]"),
        (np.zeros((769, 2, 2, 3), np.uint8), "769 frames: give 1 to 768"),
        (np.broadcast_to(np.uint8(0), (700, 1000, 1000, 3)), "over the limit of 400000000 in all"),
        ((frames(2), {"fps": 0}), "fps=0"),
        ([Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5))], "of different sizes"),
        ({"frames": None}, "not NoneType"),
        ("/nowhere/film.mp4", "not readable"),
        ("data:video/mp4,abc", "data URI of a video is"),
        ("http://example.org/film.mp4", "allowed_media_domains"),
        ("Http://example.org/film.mp4", "allowed_media_domains"),
        ("DATA:video/mp4;Base64,?", "no base64"),
        (7, "not int"),
    ],
)
def test_bad_videos_are_refused(source: Any, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        read_video(source, SAMPLING)


def test_patches_span_frames_that_follow_each_other(tmp_path: Path) -> None:
    size = {"shortest_edge": 64, "longest_edge": 4096}
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, size=size
    )
    image_processor.save_pretrained(tmp_path)
    half = qwen2_vl(VISION)
    assert isinstance(half, QwenVisionHalf)
    processor = VideoProcessor.of(tmp_path, half, image_processor, {"tokens_per_second": 4})
    images = frames(3)
    made = processor.encoder_input((images, {"fps": 2.0}), 5)
    assert made.grid == (2, 2, 3, 4.0)
    assert (made.num_tokens, made.position) == (12, 5)
    values = Pixels.unpacked(made.payload).values.reshape(2, 24, 3, 2, 4, 4)
    for number, frame in enumerate([0, 1, 2, 2]):  # the last one is repeated
        alone = image_processor(images=[Image.fromarray(images[frame])], return_tensors="np")
        patches = alone["pixel_values"].reshape(24, 3, 2, 4, 4)[:, :, 0]
        np.testing.assert_array_equal(values[number // 2, :, :, number % 2], patches)


def test_one_video_and_several_in_prompts() -> None:
    images = frames(2)
    for video, count in [
        (images, 1),
        ((images, {"fps": 1}), 1),
        ([images, images], 2),
        (list(images), 1),
        ([Image.fromarray(image) for image in images], 1),
        (["a.mp4", "b.mp4"], 2),
        ([], 0),
        (None, 0),
    ]:
        prompt = {"prompt": "a", "multi_modal_data": {"video": video}}
        assert len(parse(prompt, "image").encoder.videos) == count


def onevision_encoder(image_size: int, patch_size: int, pinpoints: list[list[int]]) -> VitHalf:
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": image_size,
        "patch_size": patch_size,
    }  # fmt: skip
    config = {
        "vision_config": vision, "text_config": {"hidden_size": 16},
        "image_grid_pinpoints": pinpoints,
    }  # fmt: skip
    half = llava_onevision.FAMILY.describe(config, "encoder")
    assert isinstance(half, VitHalf)
    return half


def test_frames_of_llava_onevision_are_tiles(tmp_path: Path) -> None:
    """Each is stretched, not padded to a square, and none is cut."""
    image_processor = LlavaOnevisionImageProcessorPil(
        size={"height": 24, "width": 24}, image_grid_pinpoints=[[48, 48], [24, 48]]
    )
    image_processor.save_pretrained(tmp_path)
    half = onevision_encoder(24, 8, [[48, 48], [24, 48]])
    processor = FrameProcessor.of(tmp_path, half, image_processor)
    for count in (1, 3):
        images = frames(count, 40, 16)
        made = processor.encoder_input(images, 5)
        assert (made.num_tokens, made.position, made.grid) == (count * 2**2 + 1, 5, None)
        values = Pixels.unpacked(made.payload).values
        for value, frame in zip(values, images, strict=True):
            stretched = Image.fromarray(frame).resize((24, 24), Image.Resampling.BICUBIC)
            mean, std = image_processor.image_mean, image_processor.image_std
            expected = (np.asarray(stretched) / 255 - mean) / std
            np.testing.assert_allclose(value, expected.transpose(2, 0, 1), atol=1e-5)
    most = (half.max_positions - 1) // 4
    with pytest.raises(VideoError, match=f"becomes {4 * most + 5} tokens, over the encoder's"):
        processor.encoder_input(frames(most + 1), 0)
    assert processor.encoder_input(frames(most), 0).num_tokens == 4 * most + 1
    with pytest.raises(VideoError, match="33 frames: give 1 to 32"):
        processor.encoder_input(frames(33), 0)


def test_how_many_frames_of_a_file_llava_onevision_reads(tmp_path: Path) -> None:
    """Two a second, one at least and 32 at most; or what the checkpoint says."""
    sampling = FrameSampling(least=1, most=MOST_FRAMES, group=1)
    for total, rate, wanted in ((24, 8, 6), (1, 30, 1), (3, 30, 1), (900, 30, 32), (7, 1, 7)):
        assert len(sampling.indices(total, rate)) == wanted
    (tmp_path / "video_preprocessor_config.json").write_text('{"num_frames": 8}')
    assert len(stated(settings_of(tmp_path), sampling).indices(100, 30)) == 8


# Every so many of the pixels that transformers 5.24's Qwen2VLVideoProcessor and
# LlavaOnevisionVideoProcessor make of `drawn()` by torchvision 0.28, which is no part of the tests.
QWEN_PIXELS = [
    -1.792, 0.208, -1.482, -1.096, -0.026, -0.536, -1.054, -0.858, 0.334, -1.295, -1.544,
    0.499, 1.264, -0.03, 0.237, 1.82, -0.257, -0.449, -1.512, -0.072, -1.252, -0.957, -0.3,
    -1.515, 0.295, -0.041, 0.966, -0.172, 0.529, 0.738, -0.289, -1.017, 1.876, -0.96,
    -0.446, 1.776, -0.499, 0.587, 0.469, -0.584, -0.099, 1.024, -0.684, -0.697, 1.535,
    -0.769, -1.369, -0.657, -0.987, 0.496, 0.179, -0.822, 0.397, -0.508, 0.049, 0.297,
    -0.887, 0.994, 0.212, 1.691,
]  # fmt: skip
ONEVISION_PIXELS = [
    -1.792, -1.135, -0.478, 0.193, 0.865, -1.677, -0.296, 1.069, -1.407, -0.026, -1.352,
    -0.385, 0.553, 1.506, -1.167, 1.77, -1.311, -0.639, 0.033, 0.689, -1.257, 0.109, 1.475,
    -0.987, 0.379, 1.023, 1.989, -0.712, 0.255, 1.193, -1.223, -0.551, 0.12, 0.777, 1.449,
    -0.867, 0.499, 1.88, -0.596, 0.769, -0.84, 0.098, 1.065, 2.004, -0.67, -1.384, -0.712,
    -0.055, 0.616, 1.288, -0.461, 0.919, -1.557, -0.191, 1.189, 1.534, -1.167, -0.2, 0.738,
    1.691,
]  # fmt: skip
LEVEL = 1 / 255 / 0.27  # one of 8 bits, once it is normalised


def drawn() -> np.ndarray:
    """Four frames of 150 x 90 pixels."""
    i, y, x = np.ogrid[:4, :90, :150]
    colors = ((x * 3 + i * 9 + 0 * y) % 256, (y * 5 + i * 4 + 0 * x) % 256, ((x + y) * 2 + i) % 256)
    return np.stack(colors, -1).astype(np.uint8)


def check_pixels(values: np.ndarray, expected: list[float]) -> None:
    """Two levels apart at most: one of them resizes in floats, and one in whole numbers."""
    flat = values.reshape(-1)
    apart = np.abs(flat[np.linspace(0, flat.size - 1, 60).astype(int)] - expected)
    assert apart.max() < 2.1 * LEVEL
    assert apart.mean() < 0.1 * LEVEL


def test_pixels_are_those_of_transformers(tmp_path: Path) -> None:
    image_processor = Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, temporal_patch_size=2)
    image_processor.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    half = qwen2_vl({**VISION, "patch_size": 14})
    processor = VideoProcessor.of(tmp_path, half, image_processor, {})
    values = Pixels.unpacked(processor.encoder_input(drawn(), 0).payload).values
    assert values.shape == (2, 18, 30, 3 * 2 * 14 * 14)
    check_pixels(values, QWEN_PIXELS)


def test_pixels_of_llava_onevision_are_those_of_transformers(tmp_path: Path) -> None:
    image_processor = LlavaOnevisionImageProcessorPil()
    half = onevision_encoder(384, 14, [[768, 768]])
    made = FrameProcessor.of(tmp_path, half, image_processor).encoder_input(drawn(), 0)
    values = Pixels.unpacked(made.payload).values
    assert values.shape == (4, 3, 384, 384)
    check_pixels(values, ONEVISION_PIXELS)
