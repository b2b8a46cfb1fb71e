"""Videos over a limit are refused by what their file says: no frame of them is decoded."""

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_vlms import make_vlm

from antiphon.config.errors import VideoError
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.images import videos
from antiphon.inputs.images.frame_processor import FrameProcessor
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.images.video_processor import VideoProcessor
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.unread import Unread

PARAMS = SamplingParams()
FRAMES = np.random.default_rng(2).integers(0, 256, (8, 16, 24, 3), np.uint8)


def film(container_format: str = "matroska") -> bytes:
    """Matroska says how long it is, and not how many frames it has."""
    import av  # which a GPU machine may lack

    file = io.BytesIO()
    with av.open(file, "w", format=container_format) as container:
        stream = container.add_stream("ffv1" if container_format == "matroska" else "mpeg4", rate=4)
        stream.height, stream.width = FRAMES.shape[1:3]
        stream.pix_fmt = "bgr0" if container_format == "matroska" else "yuv420p"
        for image in FRAMES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def data_uri(content: bytes) -> str:
    return "data:video/mp4;base64," + base64.b64encode(content).decode()


@pytest.fixture(scope="module", params=["qwen2_5_vl", "llava_onevision"])
def inputs(request: pytest.FixtureRequest, tmp_path_factory: Any) -> InputProcessor:
    folder: Path = tmp_path_factory.mktemp(request.param)
    make_vlm(request.param, folder)
    return InputProcessor(ModelConfig.load(ModelOptions(str(folder))))


def processor_of(inputs: InputProcessor) -> VideoProcessor | FrameProcessor:
    assert inputs.images is not None
    assert inputs.images.videos is not None
    return inputs.images.videos


@pytest.fixture
def nothing_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a frame was to be decoded")

    monkeypatch.setattr(videos, "_frames", refuse)


def test_a_data_uri_is_decoded_once(
    inputs: InputProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, b64decode = list[int](), base64.b64decode

    def counted(text: str, **options: Any) -> bytes:
        decoded.append(len(text))
        return b64decode(text, **options)

    monkeypatch.setattr(base64, "b64decode", counted)
    media = {"video": data_uri(film())}
    made = inputs.begin({"prompt": "w5 <video>", "multi_modal_data": media}, PARAMS)
    assert isinstance(made, Unread)
    assert made.expected_bytes() > 0
    assert made.fetched_bytes == len(film())  # counts as what is fetched does
    own = inputs.prepare({"prompt": "w5 <video>", "multi_modal_data": {"video": film()}}, PARAMS)
    assert made.read().media.key == own.media.key
    assert len(decoded) == 1


def test_a_data_uri_that_is_none_says_which_video_it_is(inputs: InputProcessor) -> None:
    prompt = {
        "prompt": "w5 <video><video>",
        "multi_modal_data": {"video": [FRAMES, "data:video/mp4;base64,?"]},
    }
    with pytest.raises(VideoError, match=r"^video 2 of 2: the data URI is no base64"):
        inputs.begin(prompt, PARAMS)


FORMS: dict[str, Callable[[Path, bytes], Any]] = {
    "bytes": lambda _, content: content,
    "open file": lambda _, content: io.BytesIO(content),
    "data URI": lambda _, content: data_uri(content),
    "path": lambda path, content: path if path.write_bytes(content) else None,
}


@pytest.mark.usefixtures("nothing_decoded")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("container_format", ["matroska", "mp4"])
@pytest.mark.parametrize("limit", ["MAX_VIDEO_PIXELS", "MAX_VIDEO_FRAMES"])
def test_files_over_a_limit(
    limit: str, container_format: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, limit, 7)
    source = FORMS[form](tmp_path / "film", film(container_format))
    with pytest.raises(VideoError, match="over the limit of 7"):
        videos.read_video(source, videos.FrameSampling())


@pytest.mark.usefixtures("nothing_decoded")
@pytest.mark.parametrize("container_format", ["matroska", "mp4"])
def test_files_of_more_tokens_than_the_encoder_takes(
    inputs: InputProcessor, container_format: str
) -> None:
    processor = processor_of(inputs)
    content = film(container_format)
    with pytest.raises(VideoError, match="a frame was to be decoded"):
        processor.encoder_input(content, 0)
    small = processor._replace(half=replace(processor.half, max_positions=1))
    with pytest.raises(VideoError, match=r"a video of 4 frames of 24 x 16 pixels becomes \d+ tok"):
        small.encoder_input(content, 0)


@pytest.mark.parametrize("limit", ["pixels", "tokens"])
def test_of_frames_over_a_limit_one_is_read(
    inputs: InputProcessor, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor, count, read_image = processor_of(inputs), list[int](), videos.read_image

    def counted(frame: Any) -> Any:
        count.append(1)
        return read_image(frame)

    monkeypatch.setattr(videos, "read_image", counted)
    if limit == "pixels":
        monkeypatch.setattr(videos, "MAX_VIDEO_PIXELS", 8 * 16 * 24 - 1)
    else:
        processor = processor._replace(half=replace(processor.half, max_positions=1))
    for source in (FRAMES, [Image.fromarray(frame) for frame in FRAMES]):
        with pytest.raises(VideoError, match=r"8 frames of .* over"):
            processor.encoder_input(source, 0)
    assert len(count) == 2


@settings(deadline=None, max_examples=30)
@given(frames=st.integers(1, 5), height=st.integers(8, 200), width=st.integers(8, 200))
def test_tokens_are_known_before(
    inputs: InputProcessor, frames: int, height: int, width: int
) -> None:
    """As many as there are: a video that just fits passes."""
    processor = processor_of(inputs)
    made = processor.encoder_input(np.zeros((frames, height, width, 3), np.uint8), 0)
    if isinstance(processor, VideoProcessor):
        shape = processor._shape(frames, (height, width))
        assert shape.pixels == Pixels.unpacked(made.payload).shape.pixels
    exact = processor._replace(half=replace(processor.half, max_positions=made.num_tokens))
    exact._check(frames, (height, width))
    less = processor._replace(half=replace(processor.half, max_positions=made.num_tokens - 1))
    with pytest.raises(VideoError, match=f"becomes {made.num_tokens} tokens"):
        less._check(frames, (height, width))
