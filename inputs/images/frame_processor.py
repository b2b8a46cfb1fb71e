"""From videos to tiles, one for each frame, as LLaVA-OneVision reads them.

transformers has a video processor for torchvision alone. Here frames go through the checkpoint's
image processor, stretched to a tile before, as its video processor does it.
"""

from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from antiphon.config.errors import VideoError
from antiphon.families.image_halves import ImageShape, VitHalf
from antiphon.inputs.foreign_errors import foreign_errors_as
from antiphon.inputs.images.limits import NOTHING_FETCHED, Fetching
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.images.resizing import Size
from antiphon.inputs.images.video_processor import (
    UNUSABLE,
    check_tokens,
    settings_of,
    stated,
    unusable,
)
from antiphon.inputs.images.videos import FrameSampling, VideoInput, expected_bytes, read_video
from antiphon.inputs.keys import content_key
from antiphon.inputs.prepared import EncoderInput

MOST_FRAMES = 32  # as many as the model was trained for


class FrameProcessor(NamedTuple):
    """`image_processor`: transformers', of the checkpoint."""

    half: VitHalf
    image_processor: Any
    sampling: FrameSampling
    fetching: Fetching
    salt: bytes

    @classmethod
    def of(
        cls, folder: Path, half: VitHalf, image_processor: Any, fetching: Fetching = NOTHING_FETCHED
    ) -> Self:
        """Raises CheckpointError."""
        try:
            sampling = stated(
                settings_of(folder), FrameSampling(least=1, most=MOST_FRAMES, group=1)
            )
        except UNUSABLE as error:
            raise unusable(folder, error) from error
        salt = f"{folder}|frames|{image_processor.to_dict()}".encode()
        return cls(half, image_processor, sampling, fetching, salt)

    def encoder_input(self, source: VideoInput, position: int) -> EncoderInput:
        """A video in any form, ready for the encoder; its rows stand in the prompt from `position`
        on. Raises VideoError for one that cannot be read, or that the model can't take."""
        from PIL import Image  # not above: commands without images need no Pillow

        video = read_video(source, self.sampling, self.fetching, self._check)
        shape = self._shape(len(video.frames))
        count = self.half.rows(shape)
        with foreign_errors_as(VideoError, video.shown):
            size = self.half.image_size[::-1]
            tiles = [frame.resize(size, Image.Resampling.BICUBIC) for frame in video.frames]
            # Of several images of a prompt it cuts none; it does not look at the last one.
            images = [[*tiles, Image.new("RGB", size)]]
            made = self.image_processor(images=images, return_tensors="np")
            values = np.asarray(made["pixel_values"], np.float32)[:-1]
            packed = Pixels(shape, values.reshape(shape.pixels)).packed()
        return EncoderInput(
            content_key(self.salt, "image", packed), "image", count, packed, position
        )

    def _check(self, frames: int, size: Size) -> None:
        """Raises VideoError for more tokens than the encoder takes."""
        check_tokens(frames, size, self.half.rows(self._shape(frames)), self.half)

    def _shape(self, frames: int) -> ImageShape:
        return ImageShape((frames, self.half.channels, *self.half.image_size))

    def expected_bytes(self, source: VideoInput) -> int:
        """As `ImageProcessor.expected_bytes`, of a video."""
        values = self.half.channels * prod(self.half.image_size)
        return expected_bytes(source, self.sampling, self.half, lambda frames, _: frames * values)
