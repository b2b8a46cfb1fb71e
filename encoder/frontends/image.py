"""The image frontends: pixel values in, of any sizes; their embedded patches are the tokens, or
those and a text's."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from antiphon.config.options import EncoderOptions
from antiphon.encoder.frontends.copies import CopiesAside
from antiphon.encoder.frontends.interface import Frontend, GraphShape
from antiphon.encoder.models.florence2 import Florence2Encoder
from antiphon.encoder.models.interface import EncoderModel, ImageEncoder, Layout
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageHalf, ImageShape
from antiphon.inputs.images.pixels import Pixels
from antiphon.runtime.device import Target


@dataclass(frozen=True)
class ImageBatch:
    """Images packed one behind the other, on the device."""

    lengths: np.ndarray  # [images] int, in tokens
    shapes: tuple[ImageShape, ...]
    values: torch.Tensor  # float32 [all numbers]

    def groups(self) -> list[torch.Tensor]:
        """Images next to each other whose sizes are equal but for the first one, as one array."""
        groups, begin = [], 0
        for sizes, shapes in groupby(self.shapes, lambda shape: shape.pixels[1:]):
            first = sum(shape.pixels[0] for shape in shapes)
            end = begin + first * prod(sizes)
            groups.append(self.values[begin:end].view(first, *sizes))
            begin = end
        return groups


@dataclass(frozen=True)
class ImageTextBatch(ImageBatch):
    """`texts`: ids [words] int64 of each image's text, on the host; `lengths` count them, too."""

    texts: tuple[np.ndarray, ...] = field(default=())


class ImageFrontend(Frontend[ImageBatch, GraphShape]):
    graph_lengths: ClassVar[Literal["same", "any"]] = "same"

    def __init__(
        self, config: ModelConfig, encoder: EncoderModel, target: Target, options: EncoderOptions
    ) -> None:
        assert isinstance(encoder, ImageEncoder)
        assert isinstance(config.encoder, ImageHalf)
        self._encoder, self._half, self._target = encoder, config.encoder, target
        self._copies = CopiesAside(target.device)

    def lengths(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Of the rows that come out of the encoder."""
        return np.array([self._half.rows(Pixels.unpacked(array).shape) for array in inputs])

    def pack(self, inputs: Sequence[np.ndarray]) -> ImageBatch:
        """`inputs`: packed `Pixels`."""
        images = [Pixels.unpacked(array) for array in inputs]
        shapes = tuple(image.shape for image in images)
        return ImageBatch(
            np.array([self._half.tokens(shape) for shape in shapes]),
            shapes,
            self._on_device([image.values.reshape(-1) for image in images]),
        )

    def _on_device(self, arrays: Sequence[np.ndarray]) -> torch.Tensor:
        """All of `arrays`, one behind the other."""
        host = self._copies.host(sum(map(len, arrays)))
        np.concatenate(arrays, out=host.numpy())
        return self._copies.to_device(host)

    def layout(self, batch: ImageBatch) -> Layout:
        layout: Layout = self._encoder.layout(batch.shapes)
        return layout

    def embed(self, batch: ImageBatch, layout: Any) -> torch.Tensor:
        return self._encoder.embed(
            [group.to(self._target.dtype) for group in batch.groups()], layout
        )

    def graph_inputs(self, max_batch_tokens: int) -> str:
        return "batches of images have none"

    def warm_up_batches(self) -> list[ImageBatch]:
        """The smallest image that the encoder takes, alone and twice."""
        shape = self._half.smallest
        image = Pixels(shape, np.zeros(shape.pixels, np.float32)).packed()
        return [self.pack([image]), self.pack([image, image])]


class ImageTextFrontend(ImageFrontend):
    """Of an encoder that reads an image and, behind it, the text that is asked about it."""

    def __init__(
        self, config: ModelConfig, encoder: EncoderModel, target: Target, options: EncoderOptions
    ) -> None:
        super().__init__(config, encoder, target, options)
        assert isinstance(encoder, Florence2Encoder)
        self._reader = encoder

    def lengths(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        texts = [Pixels.unpacked(array).text for array in inputs]
        most = self._half.vocab_size
        for ids in texts:  # on a GPU, looking up such an id would end the process
            if len(ids) and (ids.min() < 0 or ids.max() >= most):
                raise ValueError(f"token ids must be within 0 and {most - 1}")
        lengths = super().lengths(inputs) + [len(ids) for ids in texts]
        if lengths.max() > self._half.max_positions:
            raise ValueError(
                f"an image with its text becomes {lengths.max()} tokens; there are "
                f"{self._half.max_positions} positions"
            )
        return lengths

    def pack(self, inputs: Sequence[np.ndarray]) -> ImageTextBatch:
        images = super().pack(inputs)
        texts = tuple(Pixels.unpacked(array).text for array in inputs)
        lengths = images.lengths + [len(ids) for ids in texts]
        return ImageTextBatch(lengths, images.shapes, images.values, texts)

    def layout(self, batch: ImageBatch) -> Layout:
        assert isinstance(batch, ImageTextBatch)
        return self._reader.layout(batch.shapes, batch.texts)
