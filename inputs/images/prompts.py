"""The images of a prompt: read, processed as their checkpoint says, and given their places among
its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from antiphon.config.errors import CheckpointError, PromptError
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageHalf, ImageShape
from antiphon.families.mllama_half import MllamaVisionHalf
from antiphon.inputs.images import internvl
from antiphon.inputs.images.forms import ImageInput
from antiphon.inputs.images.limits import ImageLimits
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.images.processor import ImageProcessor
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
        )
        limit = limits.per_prompt or DEFAULT_LIMIT
        return cls(
            processor, model.encoder, id_, str(tokenizer.convert_ids_to_tokens(id_)), wraps,
            model.decoder.position_axes > 1, min(limit, most) if attended else limit,
            attended, tokenizer.bos_token if attended else "",
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

    def grid(self, shape: ImageShape) -> tuple[int, int, int] | None:
        """Frames, rows and columns of what the encoder makes of an image."""
        if not self.has_grids:
            return None
        frames, rows, columns, _ = shape.pixels
        merge = 1 if self.half.projector is None else self.half.projector.merge
        return frames, rows // merge, columns // merge

    def check(self, part: Part) -> None:
        """Raises PromptError for what the model does not read."""
        if part.audio is not None:
            raise PromptError("this model reads images and text, and no audio")

    def place(
        self, ids: Sequence[int], images: Sequence[ImageInput]
    ) -> tuple[list[int], tuple[EncoderInput, ...]]:
        """A prompt's token ids with room for its `images`, and these with their places.

        Raises PromptError for another number of images than there are places, or more than the
        limit, and ImageError for one that cannot be read.
        """
        if len(images) > self.limit:
            raise PromptError(
                f"{len(images)} images in a prompt; at most {self.limit} are allowed "
                "(limit_images_per_prompt)"
            )
        count = list(ids).count(self.placeholder_id)
        if count != len(images):
            raise PromptError(
                f"{len(images)} images for {count} places: the prompt must have "
                f"{self.placeholder!r} once for each image (chat() puts it there)"
            )
        before, behind = self.wraps
        placed: list[int] = []
        inputs: list[EncoderInput] = []
        for id_ in ids:
            if id_ != self.placeholder_id:
                placed.append(id_)
                continue
            image = self.processor.encoder_input(
                images[len(inputs)], len(placed) + len(before), alone=len(images) == 1
            )
            shape = Pixels.unpacked(image.payload).shape
            if isinstance(self.half, MllamaVisionHalf):
                shown = self.half.rows_shown(shape)
                inputs.append(replace(image, position=None, token=len(placed), shown=shown))
                placed.append(id_)
                continue
            inputs.append(replace(image, grid=self.grid(shape)))
            placed += [*before, *[self.placeholder_id] * image.num_tokens, *behind]
        return placed, tuple(inputs)


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
