"""The image frontends: pixel values in, of any sizes; their embedded patches are the tokens, or
those and a text's."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from antiphon.config.options import EngineConfig
from antiphon.encoder.frontends.copies import CopiesAside
from antiphon.encoder.frontends.graph_sizes import MAX_GRAPH_TOKENS
from antiphon.encoder.frontends.image_batch import ImageBatch, ImageTextBatch
from antiphon.encoder.frontends.image_graphs import PatchGraphInputs, TileGraphInputs
from antiphon.encoder.frontends.interface import Frontend, GraphInputs, GraphShape
from antiphon.encoder.frontends.warm_pictures import pictures, takes_pictures
from antiphon.encoder.models.florence2 import Florence2Encoder
from antiphon.encoder.models.interface import EncoderModel, ImageEncoder, Layout, PatchEncoder
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageHalf
from antiphon.inputs.images.pixels import Pixels
from antiphon.runtime.device import Target


class ImageFrontend(Frontend[ImageBatch, GraphShape]):
    def __init__(
        self, config: ModelConfig, encoder: EncoderModel, target: Target, options: EngineConfig
    ) -> None:
        assert isinstance(encoder, ImageEncoder)
        assert isinstance(config.encoder, ImageHalf)
        self._encoder, self._half, self._target = encoder, config.encoder, target
        self._resizes = takes_pictures(options.model.image_resizing, target.device)
        self._copies = CopiesAside(target.device)
        is_packed = isinstance(encoder, PatchEncoder)
        self.graph_lengths: Literal["same", "any"] = "any" if is_packed else "same"

    def lengths(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Of the rows that come out of the encoder."""
        return np.array([self._half.rows(Pixels.unpacked(array).shape) for array in inputs])

    def pack(self, inputs: Sequence[np.ndarray]) -> ImageBatch:
        """`inputs`: packed `Pixels`."""
        images = [Pixels.unpacked(array) for array in inputs]
        shapes = tuple(image.shape for image in images)
        lengths = np.array([self._half.tokens(shape) for shape in shapes])
        return ImageBatch(lengths, shapes, self._values(images))

    def _values(self, images: Sequence[Pixels]) -> torch.Tensor:
        """Of all `images`, one behind the other, on the device; pictures are processed there."""
        ready = [image.values for image in images if image.rendering is None]
        pictures = [image.values for image in images if image.rendering is not None]
        copied = self._on_device(ready, torch.float32)
        if not pictures:
            return copied
        values = iter(copied.split([array.size for array in ready]))
        raw = iter(self._on_device(pictures, torch.uint8).split([array.size for array in pictures]))
        made = []
        for image in images:
            if image.rendering is None:
                made.append(next(values))
            else:
                picture = next(raw).view(image.values.shape)
                made.append(image.rendering.values(picture).flatten())
        return torch.cat(made)

    def _on_device(self, arrays: Sequence[np.ndarray], dtype: torch.dtype) -> torch.Tensor:
        """All of `arrays`, one behind the other."""
        host = self._copies.host(sum(array.size for array in arrays), dtype=dtype)
        if arrays:
            np.concatenate([array.reshape(-1) for array in arrays], out=host.numpy())
        return self._copies.to_device(host)

    def layout(self, batch: ImageBatch) -> Layout:
        layout: Layout = self._encoder.layout(batch.shapes)
        return layout

    def embed(self, batch: ImageBatch, layout: Any) -> torch.Tensor:
        return self._encoder.embed(
            [group.to(self._target.dtype) for group in batch.groups()], layout
        )

    def assembled(self, batch: ImageBatch, rows: torch.Tensor) -> torch.Tensor:
        return self._encoder.assembled(rows, batch.shapes)

    def graph_inputs(self, max_batch_tokens: int) -> GraphInputs[ImageBatch, Any] | str:
        half, tile = self._half, self._half.usual_tile
        if isinstance(self._encoder, PatchEncoder):
            return PatchGraphInputs(self._encoder, half, max_batch_tokens, self._target)
        if tile is None:
            return "batches of these images have no one shape"
        if half.tokens(tile) > MAX_GRAPH_TOKENS:
            return f"an image of {half.tokens(tile)} tokens takes longer than launching its kernels"
        return TileGraphInputs(self._encoder, half, tile, max_batch_tokens, self._target)

    def warm_up_batches(self) -> list[ImageBatch]:
        """The smallest image that the encoder takes, alone and twice, and pictures, where
        they are processed here."""
        shape = self._half.smallest
        image = Pixels(shape, np.zeros(shape.pixels, np.float32)).packed()
        raw = [picture.packed() for picture in pictures(self._half)] if self._resizes else []
        batches = [[image], [image, image]]
        if raw:
            batches.append([image, *raw])
        return [self.pack(batch) for batch in batches]


class ImageTextFrontend(ImageFrontend):
    """Of an encoder that reads an image and, behind it, the text that is asked about it."""

    def __init__(
        self, config: ModelConfig, encoder: EncoderModel, target: Target, options: EngineConfig
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

    def graph_inputs(self, max_batch_tokens: int) -> str:
        return "images with texts have none"

    def layout(self, batch: ImageBatch) -> Layout:
        assert isinstance(batch, ImageTextBatch)
        return self._reader.layout(batch.shapes, batch.texts)
