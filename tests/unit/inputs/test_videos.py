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
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from antiphon.config.errors import VideoError
from antiphon.families.image_halves import QwenVisionHalf
from antiphon.families.qwen_vision import qwen2_vl
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.images.video_processor import VideoProcessor
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
