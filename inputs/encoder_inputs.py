"""What `encode()` is given, as encoders take it."""

from collections.abc import Iterable, Mapping
from typing import Any

from antiphon.config.errors import PromptError
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageHalf
from antiphon.inputs.calls.options import is_one_recording
from antiphon.inputs.foreign_errors import foreign_errors_as
from antiphon.inputs.images.processor import ImageProcessor
from antiphon.inputs.prepared import EncoderInput
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.prompts import Part, parse
from antiphon.inputs.unread import Unread, begun


class EncoderInputs:
    """For one checkpoint. Its methods may run in several threads."""

    def __init__(self, inputs: InputProcessor) -> None:
        """Raises CheckpointError for an encoder of images that has no image processor."""
        self._inputs, half = inputs, inputs.model.encoder
        readers = (inputs.images, inputs.attended_image)
        self.images = next((reader.processor for reader in readers if reader is not None), None)
        if isinstance(half, ImageHalf) and self.images is None:
            limits = inputs.image_limits
            self.images = ImageProcessor(
                inputs.model.path, half, limits.fetching, resizing=limits.resizing
            )

    def is_one(self, sources: Any) -> bool:
        """Whether this is one source, and not several. What is neither counts as one: `begin` says
        what is wrong with it."""
        is_image = self.images is not None and getattr(sources, "ndim", 0) in (2, 3)
        if is_image or is_one_recording(sources):
            return True
        return not isinstance(sources, Iterable) and not hasattr(sources, "__getitem__")

    def begin(self, source: Any) -> EncoderInput | Unread[EncoderInput]:
        """An image, audio or a text in any form; the last two, and an image that is read with a
        text, also as a prompt. Images and audio are left unread: they may need much memory. Raises
        InputError."""
        inputs, subject = self._inputs, f"an input of type {type(source).__name__}"
        fetching = inputs.image_limits.fetching
        if self.images is not None and not self._has_questions:
            media = Part(images=(source,))
            return begun(media, self._read_image, self._expected_bytes, fetching, subject)
        with foreign_errors_as(PromptError, subject):
            parsed = parse(self._prompt(source), inputs.model.family.input)
            inputs.taken.check(parsed.encoder)
            make = inputs.reader(parsed)
        return begun(parsed.encoder, make, inputs.expected_bytes, fetching, subject)

    @property
    def _has_questions(self) -> bool:
        attended = self._inputs.attended_image
        return attended is not None and attended.questions is not None

    def _prompt(self, source: Any) -> Any:
        """Of a source that may be a prompt itself."""
        if self._has_questions:
            is_prompt = isinstance(source, Mapping)
            return source if is_prompt else {"multi_modal_data": {"image": source}}
        is_prompt = isinstance(source, Mapping) and "multi_modal_data" in source
        is_sound = self._inputs.audio is not None and not is_prompt
        return {"multi_modal_data": {"audio": source}} if is_sound else source

    def _read_image(self, media: Part) -> EncoderInput:
        assert self.images is not None
        return self.images.encoder_input(media.images[0])

    def _expected_bytes(self, media: Part) -> int:
        assert self.images is not None
        return self.images.expected_bytes(media.images[0])


def check_pooled(model: ModelConfig, pooled: bool) -> None:
    """Raises PromptError if the model has no encoder, or gives no embedding where one is wanted."""
    half = model.encoder
    if half is None:
        raise PromptError(f"{model.architecture} has no encoder: there is nothing to encode with")
    if pooled and getattr(half, "pooling", None) is None:
        raise PromptError(
            f"the encoder of {model.architecture} has no pooling: it gives hidden states alone "
            "(pooled=False)"
        )
