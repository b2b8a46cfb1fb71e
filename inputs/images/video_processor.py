"""From videos to what Qwen2-VL's encoders take, as the checkpoint's settings say.

transformers has a video processor for torchvision alone. Here each frame goes through the image
processor, which turns a frame into patches over two equal ones; then patches over frames that
follow each other are put together. Sizes are rounded alike, so that pixels differ by the resizing
of the two libraries alone.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from antiphon.config.errors import CheckpointError, VideoError, describe
from antiphon.families.image_halves import ImageHalf, ImageShape
from antiphon.families.qwen_vision_half import QwenVisionHalf
from antiphon.inputs.foreign_errors import foreign_errors_as
from antiphon.inputs.images.limits import NOTHING_FETCHED, Fetching
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.images.rendering import CHANNELS as COLORS
from antiphon.inputs.images.resizing import Size
from antiphon.inputs.images.videos import (
    FrameSampling,
    VideoInput,
    expected_bytes,
    read_video,
    shown,
)
from antiphon.inputs.keys import content_key
from antiphon.inputs.prepared import EncoderInput

# Where settings of videos stand, the first that is there; in the first one under a name.
FILES = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
LEAST_PIXELS, MOST_PIXELS = 128 * 28 * 28, 768 * 28 * 28  # of a frame, where nothing says so


class VideoProcessor(NamedTuple):
    """`image_processor`: transformers', of the checkpoint. `size`: the least and the most pixels of
    a frame, as that takes them. `tokens_per_second`: positions that a second takes; None: each
    group of frames has the next one."""

    half: QwenVisionHalf
    image_processor: Any
    size: Mapping[str, int]
    sampling: FrameSampling
    tokens_per_second: float | None
    fetching: Fetching
    salt: bytes

    @classmethod
    def of(
        cls,
        folder: Path,
        half: QwenVisionHalf,
        image_processor: Any,
        vision: Mapping[str, Any],
        fetching: Fetching = NOTHING_FETCHED,
    ) -> Self:
        """`vision`: the encoder's part of config.json. Raises CheckpointError."""
        try:
            settings = settings_of(folder)
            size = dict(settings.get("size") or {})
            size = {
                "shortest_edge": settings.get("min_pixels", size.get("shortest_edge")),
                "longest_edge": settings.get("max_pixels", size.get("longest_edge")),
            }
            size = {
                "shortest_edge": int(size["shortest_edge"] or LEAST_PIXELS),
                "longest_edge": int(size["longest_edge"] or MOST_PIXELS),
            }
            sampling = stated(settings, FrameSampling(group=half.frames))
        except UNUSABLE as error:
            raise unusable(folder, error) from error
        salt = f"{folder}|{size}|{image_processor.to_dict()}".encode()
        seconds = vision.get("tokens_per_second")
        return cls(half, image_processor, size, sampling, seconds, fetching, salt)

    def encoder_input(self, source: VideoInput, position: int) -> EncoderInput:
        """A video in any form, ready for the encoder; its rows stand in the prompt from `position`
        on. Raises VideoError for one that cannot be read, or that the model can't take."""
        video = read_video(source, self.sampling, self.fetching, self._check)
        with foreign_errors_as(VideoError, video.shown):
            made = self.image_processor(images=video.frames, size=self.size, return_tensors="np")
            _, rows, columns = (int(number) for number in made["image_grid_thw"][0])
            values = np.asarray(made["pixel_values"], np.float32)
            groups = self._grouped(values.reshape(len(video.frames), rows * columns, -1))
            shape = ImageShape((len(groups), rows, columns, groups.shape[-1]))
            count = self.half.rows(shape)
        check_tokens(len(video.frames), video.size, count, self.half)
        packed = Pixels(shape, groups.reshape(shape.pixels)).packed()
        step = 1.0
        if self.tokens_per_second is not None:
            step = self.tokens_per_second * self.half.frames / video.fps
        merge = self.half.projector.merge
        grid = (len(groups), rows // merge, columns // merge, step)
        return EncoderInput(
            content_key(self.salt, "image", packed), "image", count, packed, position, grid
        )

    def _check(self, frames: int, size: Size) -> None:
        """Raises VideoError for more tokens than the encoder takes."""
        check_tokens(frames, size, self.half.rows(self._shape(frames, size)), self.half)

    def _shape(self, frames: int, size: Size) -> ImageShape:
        """What becomes of so many frames of a size."""
        half, resized = self.half, import_module(type(self.image_processor).__module__).smart_resize
        height, width = resized(
            *size,
            factor=half.patch_size * half.projector.merge,
            min_pixels=self.size["shortest_edge"],
            max_pixels=self.size["longest_edge"],
        )
        groups, patch = -(-frames // half.frames), half.patch_size
        features = COLORS * half.frames * patch**2
        return ImageShape((groups, height // patch, width // patch, features))

    def expected_bytes(self, source: VideoInput) -> int:
        """As `ImageProcessor.expected_bytes`, of a video."""
        return expected_bytes(source, self.sampling, self.half, self._num_values)

    def _num_values(self, frames: int, size: Size) -> int:
        pixels = max(self.size["shortest_edge"], min(prod(size), self.size["longest_edge"]))
        return COLORS * pixels * (frames + -frames % self.half.frames)

    def _grouped(self, frames: np.ndarray) -> np.ndarray:
        """Patches of single frames [frames, patches, features], in which each frame stands for all
        of its group -> of groups of frames [groups, patches, features]. The last frame is repeated
        where some are missing."""
        size, area = self.half.frames, self.half.patch_size**2
        if missing := -len(frames) % size:
            frames = np.concatenate([frames, *[frames[-1:]] * missing])
        apart = frames.reshape(len(frames) // size, size, frames.shape[1], -1, size, area)
        groups = np.stack([apart[:, number, :, :, number] for number in range(size)], 3)
        return groups.reshape(len(groups), frames.shape[1], -1)


UNUSABLE = (OSError, ValueError, TypeError, AttributeError)  # what broken settings raise


def unusable(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{folder}: its settings for videos cannot be used: {describe(error)}")


def stated(settings: Mapping[str, Any], sampling: FrameSampling) -> FrameSampling:
    """`sampling` with what a checkpoint's settings say of it."""
    values = {
        "fps": settings.get("fps"), "count": settings.get("num_frames"),
        "least": settings.get("min_frames"), "most": settings.get("max_frames"),
    }  # fmt: skip
    return replace(sampling, **{name: value for name, value in values.items() if value is not None})


def check_tokens(frames: int, size: Size, count: int, half: ImageHalf) -> None:
    """Raises VideoError for a video that becomes `count` tokens, more than the encoder takes."""
    if count > half.max_positions:
        raise VideoError(
            f"{shown(frames, size)} becomes {count} tokens, over the encoder's "
            f"{half.max_positions}: give fewer frames or smaller ones"
        )


def settings_of(folder: Path) -> Mapping[str, Any]:
    """Of the checkpoint, for videos. Raises what `UNUSABLE` names."""
    for name in FILES:
        if (folder / name).exists():
            content = (folder / name).read_text("utf-8-sig")
            settings: Mapping[str, Any] = json.loads(content)
            if name == FILES[0]:
                settings = settings.get("video_processor") or {}
            if settings:
                return settings
    return {}
