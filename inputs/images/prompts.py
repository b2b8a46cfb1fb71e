"""The images of a prompt: read, processed as their checkpoint says, and given their places among
its tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from antiphon.config.errors import CheckpointError, PromptError, describe
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageHalf, ImageShape
from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.prepared import EncoderInput

DEFAULT_LIMIT = 64  # images of a prompt


@dataclass(frozen=True)
class ImagePrompts:
    """The image processor of a checkpoint, and how images stand in its prompts.

    A prompt has one placeholder token for each image. It becomes as many as the encoder makes rows
    of the image, between `wraps` where the checkpoint has such tokens.
    """

    processor: Any  # transformers' image processor
    half: ImageHalf
    placeholder_id: int
    placeholder: str
    wraps: tuple[tuple[int, ...], tuple[int, ...]]  # token ids before and behind an image's
    settings: dict[str, Any]  # that the checkpoint's processor gives its image processor
    has_grids: bool  # positions are by frame, row and column
    limit: int

    @classmethod
    def of(cls, model: ModelConfig, tokenizer: Any, limit: int | None) -> "ImagePrompts | None":
        """None for a model that reads no images in prompts. `limit`: images of a prompt.

        Raises CheckpointError for missing or broken settings.
        """
        if model.family.input != "image" or model.decoder.cross_attention:
            return None
        from transformers import AutoImageProcessor

        assert isinstance(model.encoder, ImageHalf)
        try:
            processor = AutoImageProcessor.from_pretrained(model.path)
        except Exception as error:  # whatever it raises for broken or missing files
            raise CheckpointError(
                f"cannot load the image processor of {model.path}: {describe(error)}"
            ) from error
        id_ = model.raw.get("image_token_id", model.raw.get("image_token_index"))
        if not isinstance(id_, int):
            raise CheckpointError(f"config.json of {model.path} lacks image_token_id")
        is_internvl = model.family.name == "internvl"
        wraps = _wraps(tokenizer) if is_internvl else ((), ())
        return cls(
            processor, model.encoder, id_, str(tokenizer.convert_ids_to_tokens(id_)), wraps,
            {"crop_to_patches": True} if is_internvl else {},
            model.decoder.position_axes > 1, DEFAULT_LIMIT if limit is None else limit,
        )  # fmt: skip

    def read(self, source: Any) -> Pixels:
        """An image in the form that the encoder takes. Raises PromptError for one of another type
        than PIL's, or an array [height, width, 3] of bytes."""
        image = Image.fromarray(source) if isinstance(source, np.ndarray) else source
        if not isinstance(image, Image.Image):
            raise PromptError(f"an image must be PIL's or an array, not {type(source).__name__}")
        made = self.processor(images=[image], return_tensors="np", **self.settings)
        values = np.asarray(made["pixel_values"], np.float32)
        if "image_grid_thw" in made:
            frames, rows, columns = map(int, made["image_grid_thw"][0])
            values = values.reshape(frames, rows, columns, -1)
        values = values.reshape(-1, *values.shape[-3:])
        height, width = map(int, made["image_sizes"][0]) if "image_sizes" in made else (0, 0)
        return Pixels(ImageShape(values.shape, (height, width)), values)

    def grid(self, shape: ImageShape) -> tuple[int, int, int] | None:
        """Frames, rows and columns of what the encoder makes of an image."""
        if not self.has_grids:
            return None
        frames, rows, columns, _ = shape.pixels
        merge = 1 if self.half.projector is None else self.half.projector.merge
        return frames, rows // merge, columns // merge

    def place(
        self, ids: Sequence[int], images: Sequence[Any], key: Callable[[np.ndarray], str]
    ) -> tuple[list[int], tuple[EncoderInput, ...]]:
        """A prompt's token ids with room for its `images`, and these with their places.

        `key`: names an image's array. Raises PromptError for another number of images than there
        are places, or more than the limit.
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
            pixels = self.read(images[len(inputs)])
            rows, array = self._rows(pixels, len(inputs)), pixels.packed()
            position = len(placed) + len(before)
            inputs.append(
                EncoderInput(key(array), "image", rows, array, position, self.grid(pixels.shape))
            )
            placed += [*before, *[self.placeholder_id] * rows, *behind]
        return placed, tuple(inputs)

    def _rows(self, pixels: Pixels, number: int) -> int:
        try:
            return self.half.rows(pixels.shape)
        except ValueError as error:
            raise PromptError(f"image {number}: {error}") from None


def _wraps(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """InternVL's tokens before and behind an image."""
    names = (
        getattr(tokenizer, "start_image_token", "<img>"),
        getattr(tokenizer, "end_image_token", "</img>"),
    )
    first, last = (tokenizer.convert_tokens_to_ids(name) for name in names)
    return (int(first),), (int(last),)
