"""Videos in the forms that callers have them, and the frames of them that a model reads."""

import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.config.errors import ImageError, VideoError
from antiphon.families.image_halves import ImageHalf
from antiphon.inputs.foreign_errors import foreign_errors_as
from antiphon.inputs.images.addresses import Content, content_of, is_fetched
from antiphon.inputs.images.forms import read_image
from antiphon.inputs.images.limits import NOTHING_FETCHED, Fetching
from antiphon.inputs.images.pixels import FLOAT
from antiphon.inputs.images.rendering import CHANNELS as COLORS
from antiphon.inputs.images.resizing import Size
from antiphon.inputs.images.sizes import decoded_bytes, most_bytes, size_of
from antiphon.inputs.media_files import kept_place, open_media
from antiphon.inputs.numbered import numbered

# Frames as an array [frames, height, width, 3] or a list of images, alone or with their rate as
# (frames, {"fps": ...}) or {"frames": ..., "fps": ...}; a file as a path, bytes, an open file, a
# data URI, or an http(s) address where such are fetched.
VideoInput = Any

MAX_VIDEO_PIXELS = 400_000_000  # of all frames that are read: 1.2 GB as 8-bit colors
MAX_VIDEO_FRAMES = 100_000  # of a file, which is decoded up to the last frame that is read
LONGEST_NAME = 200  # characters of a path that are told
UNKNOWN_FPS = 24.0  # of frames whose rate nobody says, as transformers has it


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a file are read: `count` of them, or else `fps` a second, within `least` and
    `most`; whole groups of `group`, as far as there are so many."""

    fps: float = 2.0
    count: int | None = None
    least: int = 4
    most: int = 768
    group: int = 2

    def indices(self, total: int, rate: float) -> np.ndarray:
        """Numbers [frames] of the frames to read, of `total` at `rate` a second; evenly spread, as
        transformers' video processor of Qwen2-VL does it. Raises VideoError."""
        if self.count is not None:
            wanted: float = round(self.count / self.group) * self.group
        else:
            most = min(self.most, total) // self.group * self.group
            wanted = min(max(total / rate * self.fps, self.least), most, total)
            wanted = math.floor(wanted / self.group) * self.group
        if wanted > total:
            raise VideoError(f"{wanted} frames are to be read of a video that has {total}")
        if wanted < 1:
            return np.arange(total)
        # In float32, as transformers' indices are rounded.
        places = np.arange(0, total, total / wanted, dtype=np.float64).astype(np.float32)
        return places.astype(np.int64)[: int(wanted)]


@dataclass(frozen=True, eq=False)
class Video:
    """`frames`: PIL's images of one size, in RGB. `fps`: of these frames."""

    frames: list[Any]
    fps: float

    @property
    def size(self) -> Size:
        return _size(self.frames[0])

    @property
    def shown(self) -> str:
        return shown(len(self.frames), self.size)


def shown(frames: int, size: Size) -> str:
    return f"a video of {frames} frames of {size[1]} x {size[0]} pixels"


# Raises VideoError for so many frames of a size, of which none is decoded yet.
Check = Callable[[int, Size], None]


def read_video(
    source: VideoInput,
    sampling: FrameSampling,
    fetching: Fetching = NOTHING_FETCHED,
    check: Check = lambda frames, size: None,
) -> Video:
    """The frames of a video in any form that are read. All of those that are given as such. Raises
    VideoError, whatever `source` is; for what is over a limit before its frames are decoded."""
    with foreign_errors_as(VideoError, f"a video of type {type(source).__name__}"):
        try:
            return _read(source, sampling, fetching, check)
        except ImageError as error:  # of a frame, or of an address
            raise VideoError(str(error)) from error


def _read(source: VideoInput, sampling: FrameSampling, fetching: Fetching, check: Check) -> Video:
    if isinstance(source, str):
        content = content_of(source, fetching, "video/mp4", VideoError)
        source = Path(source).expanduser() if content is None else content
    if isinstance(source, Content):
        return _decoded(io.BytesIO(source.content), source.name, sampling, check)
    if isinstance(source, os.PathLike):
        return _decoded(str(Path(source)), str(source)[:LONGEST_NAME], sampling, check)
    if isinstance(source, (bytes, bytearray, memoryview)):
        name = f"{len(source)} bytes"
        return _decoded(io.BytesIO(bytes(source)), name, sampling, check)
    if isinstance(source, Mapping):
        return _given(source.get("frames"), sampling, source.get("fps"), check)
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], Mapping):
        return _given(source[0], sampling, source[1].get("fps"), check)
    if callable(getattr(source, "read", None)):
        return _decoded(source, "the open file", sampling, check)
    return _given(source, sampling, None, check)


def _given(frames: Any, sampling: FrameSampling, fps: Any, check: Check) -> Video:
    """Of an array or a sequence of frames."""
    shape = getattr(frames, "shape", None)
    if shape is None and not isinstance(frames, Sequence):
        raise VideoError(
            "a video must be frames [frames, height, width, 3], a list of images, a path, the "
            f"bytes of a file, a file object, a data URI or an address; not {type(frames).__name__}"
        )
    if shape is not None and len(shape) != 4:
        raise VideoError(f"frames of shape {list(shape)}: give [frames, height, width, 3]")
    if not 0 < len(frames) <= sampling.most:
        raise VideoError(
            f"{len(frames)} frames: give 1 to {sampling.most}, or the file itself, of which so "
            "many are read"
        )
    rate = UNKNOWN_FPS if fps is None else float(fps)
    if not 0 < rate < math.inf:
        raise VideoError(f"fps={fps}: a video has more than 0 frames a second")
    images = list[Any]()
    for number, frame in enumerate(frames, 1):
        with numbered("frame", number, len(frames)):
            image = read_image(frame)
        if not images:  # the others have its size
            _check_pixels(len(frames), math.prod(image.size), "the video")
            check(len(frames), _size(image))
        elif image.size != images[0].size:
            raise VideoError("frames of different sizes: all of a video have one")
        images.append(image)
    return Video(images, rate)


def _size(image: Any) -> Size:
    """Of PIL's image."""
    return image.height, image.width


def expected_bytes(
    source: VideoInput,
    sampling: FrameSampling,
    half: ImageHalf,
    num_values: Callable[[int, Size], int],
) -> int:
    """As `ImageProcessor.expected_bytes`, of a video. `num_values`: how many a processor makes of
    so many frames of a size."""
    if (video := measured(source, sampling)) is None:
        return COLORS * MAX_VIDEO_PIXELS + most_bytes(half)
    frames, size = video
    return decoded_bytes(size, frames) + FLOAT.itemsize * num_values(frames, size)


def measured(source: VideoInput, sampling: FrameSampling) -> tuple[int, Size] | None:
    """How many frames are read of a video in any form, and their height and width; None where that
    can't be known before it is read. May raise anything for what is no video."""
    if is_fetched(source):
        return None
    if isinstance(source, (str, os.PathLike)):
        return _of_file(str(Path(source).expanduser()), sampling)
    if isinstance(source, Content):
        return _of_file(io.BytesIO(source.content), sampling)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _of_file(io.BytesIO(source), sampling)
    if callable(getattr(source, "read", None)):
        if not source.seekable():
            return None
        with kept_place(source):
            return _of_file(source, sampling)
    if isinstance(source, Mapping):
        source = source["frames"]
    elif isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], Mapping):
        source = source[0]
    if (shape := getattr(source, "shape", None)) is not None:
        return shape[0], (shape[1], shape[2])
    size = size_of(source[0])
    return None if size is None else (len(source), size)


def _of_file(file: Any, sampling: FrameSampling) -> tuple[int, Size]:
    import av

    with open_media(file) as container:
        stream = container.streams.video[0]
        rate = _rate(stream)
        seconds = (container.duration or 0) / av.time_base
        total = stream.frames or math.ceil(seconds * rate) or sampling.most
        frames = len(sampling.indices(total, rate))
        _check_pixels(frames, stream.height * stream.width, "the video")
        return frames, (stream.height, stream.width)


def _rate(stream: Any) -> float:
    """Frames a second."""
    return float(stream.average_rate or stream.guessed_rate or UNKNOWN_FPS)


def _check_pixels(frames: int, pixels: int, name: str) -> None:
    if frames * pixels > MAX_VIDEO_PIXELS:
        raise VideoError(
            f"{name}: {frames} frames of {pixels} pixels are over the limit of {MAX_VIDEO_PIXELS} "
            "in all: shrink it, or cut it"
        )


def _decoded(file: Any, name: str, sampling: FrameSampling, check: Check) -> Video:
    import av

    try:
        with open_media(file) as container:
            if not container.streams.video:
                raise VideoError(f"{name}: there is no video in it")
            stream = container.streams.video[0]
            rate = _rate(stream)
            total = stream.frames or _count(container)
            if total > MAX_VIDEO_FRAMES:
                raise VideoError(
                    f"{name}: {total} frames are over the limit of {MAX_VIDEO_FRAMES}: cut it"
                )
            indices = sampling.indices(total, rate)
            _check_pixels(len(indices), stream.width * stream.height, name)
            check(len(indices), (stream.height, stream.width))
            stream.thread_type = "AUTO"
            frames = _frames(container, set(indices.tolist()), name)
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or str(error)
        raise VideoError(f"{name}: not readable as a video ({reason})") from error
    if not frames:
        raise VideoError(f"{name}: no frame of it can be decoded")
    return Video(frames, len(frames) / total * rate)


def _count(container: Any) -> int:
    """Frames of a file that does not say how many it has; it is read to its end, and rewound."""
    total = sum(bool(packet.size) for packet in container.demux(video=0))
    container.seek(0)
    return total


def _frames(container: Any, wanted: set[int], name: str) -> list[Any]:
    """Those of these numbers, as far as the file is whole."""
    last, frames = max(wanted), list[Any]()
    for number, frame in enumerate(container.decode(video=0)):
        if number in wanted:
            _check_pixels(len(wanted), frame.width * frame.height, name)  # it may have grown
            frames.append(frame.to_image())
        if number == last:
            break
    return frames
