"""The images and videos of a prompt: read, processed as their checkpoint says, and given their
places among its tokens."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

from antiphon.config.errors import CheckpointError, PromptError, VideoError
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageHalf, ImageShape, VitHalf
from antiphon.families.mllama_half import MllamaVisionHalf
from antiphon.families.qwen_vision_half import QwenVisionHalf
from antiphon.inputs.images import internvl
from antiphon.inputs.images.forms import ImageInput
from antiphon.inputs.images.frame_processor import FrameProcessor
from antiphon.inputs.images.limits import Fetching, ImageLimits
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.images.processor import ImageProcessor
from antiphon.inputs.images.video_processor import VideoProcessor
from antiphon.inputs.numbered import numbered
from antiphon.inputs.prepared import EncoderInput
from antiphon.inputs.prompt_ids import attends
from antiphon.inputs.prompts import Part

DEFAULT_LIMIT = 64  # images of a prompt


@dataclass(frozen=True)
class ImagePrompts:
    """The image processor of a checkpoint, and how images stand in its prompts.

    A prompt has one placeholder token for each image. It becomes as many as the encoder makes rows
    of the image, between `wraps` where the checkpoint has such tokens; where the decoder attends
    to images, it stays as it is.
    """

    processor: ImageProcessor
    half: ImageHalf
    placeholder_id: int
    placeholder: str
    wraps: tuple[tuple[int, ...], tuple[int, ...]]  # token ids before and behind an image's
    has_grids: bool  # positions are by frame, row and column
    limit: int
    attended: bool  # the decoder attends to images
    first: str  # token that texts begin with whose tokenizer puts none there; empty: there is none
    videos: VideoProcessor | FrameProcessor | None = None  # None: the model reads none
    video_id: int | None = None
    video_placeholder: str = ""
    most_positions: int = 0  # that tokens may have

    @classmethod
    def of(cls, model: ModelConfig, tokenizer: Any, limits: ImageLimits) -> "ImagePrompts | None":
        """None for a model that reads no images in prompts.

        Raises CheckpointError for missing or broken settings.
        """
        if model.family.input != "image" or attends(model):
            return None
        attended, most = model.decoder.cross_attention, model.decoder.most_attended
        assert isinstance(model.encoder, ImageHalf)
        id_ = _image_id(model, tokenizer)
        is_internvl = model.family.name in internvl.FAMILIES
        wraps = internvl.wraps(tokenizer) if is_internvl else ((), ())
        processor = ImageProcessor(
            model.path,
            model.encoder,
            limits.fetching,
            # Whole images are the default of its processor for images, not of that for prompts.
            settings={"crop_to_patches": True} if is_internvl else {},
            processor=internvl.tiling_processor(model.raw),
            resizing=limits.resizing,
        )
        limit = limits.per_prompt or DEFAULT_LIMIT
        video_id = model.raw.get("video_token_id", model.raw.get("video_token_index"))
        videos = None
        if video_id is not None:
            videos = _videos(model, processor.of_checkpoint, limits.fetching)
        return cls(
            processor, model.encoder, id_, str(tokenizer.convert_ids_to_tokens(id_)), wraps,
            model.decoder.position_axes > 1, min(limit, most) if attended else limit,
            attended, tokenizer.bos_token if attended else "", videos, video_id,
            "" if videos is None else str(tokenizer.convert_ids_to_tokens(video_id)),
            model.max_decoder_len,
        )  # fmt: skip

    def begun(self, text: str) -> str:
        """`text` of a prompt as its tokenizer is given it: with the first token behind images that
        it begins with, as transformers' processor for the same checkpoint puts it."""
        if not self.first or self.first in text:
            return text
        behind = text
        while behind.startswith(self.placeholder):
            behind = behind.removeprefix(self.placeholder)
        return f"{text.removesuffix(behind)}{self.first}{behind}"

    def grid(self, shape: ImageShape) -> tuple[int, int, int, float] | None:
        """As `Media` has it, of what the encoder makes of an image."""
        if not self.has_grids:
            return None
        frames, rows, columns, _ = shape.pixels
        merge = 1 if self.half.projector is None else self.half.projector.merge
        return frames, rows // merge, columns // merge, 1.0

    def check(self, part: Part) -> None:
        """Raises PromptError for another number of images or videos than the limit allows."""
        for kind, media in (("images", part.images), ("videos", part.videos)):
            if len(media) > self.limit:
                raise PromptError(
                    f"{len(media)} {kind} in a prompt; at most {self.limit} are allowed "
                    "(limit_images_per_prompt)"
                )

    def check_places(self, ids: Sequence[int], part: Part) -> None:
        """Raises PromptError for another number of images or videos than places among `ids`."""
        self._check_places(ids, self.placeholder_id, part.images, "image")
        if self.videos is not None:
            self._check_places(ids, self.video_id, part.videos, "video")

    def expected_bytes(self, part: Part) -> int:
        """An estimate of what `place` takes. Raises anything for what is no image or video."""
        alone = len(part.images) == 1
        images = sum(self.processor.expected_bytes(image, alone) for image in part.images)
        if self.videos is None:
            return images
        return images + sum(self.videos.expected_bytes(video) for video in part.videos)

    def place(self, ids: Sequence[int], part: Part) -> tuple[list[int], tuple[EncoderInput, ...]]:
        """A prompt's token ids, which are checked, with room for the images and videos of `part`,
        and these with their places. Raises ImageError and VideoError for one that cannot be
        read, by its number."""
        images, videos = enumerate(part.images, 1), enumerate(part.videos, 1)
        before, behind = self.wraps
        placed: list[int] = []
        inputs: list[EncoderInput] = []
        for id_ in ids:
            if id_ == self.placeholder_id:
                number, image = next(images)
                with numbered("image", number, count := len(part.images)):
                    made = self._image(image, len(placed) + len(before), count == 1)
            elif id_ == self.video_id and self.videos is not None:
                number, video = next(videos)
                with numbered("video", number, len(part.videos)):
                    made = self.videos.encoder_input(video, len(placed))
                    self._check_reach(made, len(placed))
            else:
                placed.append(id_)
                continue
            inputs.append(made)
            if self.attended:
                placed.append(id_)
            else:
                placed += [*before, *[id_] * made.num_tokens, *behind]
        return placed, tuple(inputs)

    def _check_places(self, ids: Sequence[int], id_: int | None, media: Sized, kind: str) -> None:
        count = 0 if id_ is None else list(ids).count(id_)
        if count != len(media):
            token = self.placeholder if kind == "image" else self.video_placeholder
            raise PromptError(
                f"{len(media)} {kind}s for {count} places: the prompt must have {token!r} once for "
                f"each {kind} (chat() puts it there)"
            )

    def _check_reach(self, video: EncoderInput, position: int) -> None:
        """Raises VideoError for one whose last frame, far in time, is behind all positions."""
        if video.grid is None:
            return
        last = position + int((video.grid[0] - 1) * video.grid[3])
        if last >= self.most_positions:
            raise VideoError(
                f"the last frame of a video lies at position {last} of {self.most_positions}: cut "
                "it, or give its frames with a higher fps"
            )

    def _image(self, image: ImageInput, position: int, alone: bool) -> EncoderInput:
        """At `position` of the prompt. Raises ImageError."""
        made = self.processor.encoder_input(image, position, alone=alone)
        shape = Pixels.unpacked(made.payload).shape
        if isinstance(self.half, MllamaVisionHalf):
            shown = self.half.rows_shown(shape)
            return replace(made, position=None, token=position, shown=shown)
        return replace(made, grid=self.grid(shape))


def _videos(
    model: ModelConfig, image_processor: Any, fetching: Fetching
) -> VideoProcessor | FrameProcessor | None:
    """None for a model that reads no videos. Raises CheckpointError."""
    half = model.encoder
    if isinstance(half, QwenVisionHalf):
        vision = model.raw["vision_config"]
        return VideoProcessor.of(model.path, half, image_processor, vision, fetching)
    if isinstance(half, VitHalf) and half.tiles is not None and half.tiles.frame_side:
        return FrameProcessor.of(model.path, half, image_processor, fetching)
    return None


def _image_id(model: ModelConfig, tokenizer: Any) -> int:
    """The token that stands for an image. Raises CheckpointError."""
    if (name := model.raw.get("image_token")) is not None:
        id_ = tokenizer.get_vocab().get(name)
        where = f"the tokenizer of {model.path} lacks {name}"
    else:
        id_ = model.raw.get("image_token_id", model.raw.get("image_token_index"))
        where = f"config.json of {model.path} lacks image_token_id"
    if not isinstance(id_, int):
        raise CheckpointError(where)
    return id_
