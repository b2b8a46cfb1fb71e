"""The image of a prompt for a decoder that attends to it (TrOCR, Donut), with the text that is
asked about it where the encoder reads both (Florence-2)."""

from dataclasses import dataclass
from typing import Any

from antiphon.config.errors import PromptError
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageHalf
from antiphon.inputs.images.limits import ImageLimits
from antiphon.inputs.images.processor import ImageProcessor
from antiphon.inputs.images.questions import Questions
from antiphon.inputs.prepared import EncoderInput
from antiphon.inputs.prompt_ids import attends
from antiphon.inputs.prompts import Part


def attends_to_an_image(model: ModelConfig) -> bool:
    has_decoder = model.decoder_half is not None
    return isinstance(model.encoder, ImageHalf) and has_decoder and attends(model)


@dataclass(frozen=True)
class AttendedImage:
    """Reads the one image of each prompt. `questions`: reads its text; None: there is none.
    `most_tokens`: of both."""

    processor: ImageProcessor
    questions: Questions | None
    most_tokens: int

    @classmethod
    def of(cls, model: ModelConfig, tokenizer: Any, limits: ImageLimits) -> "AttendedImage | None":
        """None for a model whose decoder attends to no images. Raises CheckpointError for a
        checkpoint without an image processor."""
        if not attends_to_an_image(model):
            return None
        half = model.encoder
        assert isinstance(half, ImageHalf)
        processor = ImageProcessor(model.path, half, limits.fetching, resizing=limits.resizing)
        questions = None
        if model.family.input == "image_text":
            questions = Questions.of(model, tokenizer, processor.of_checkpoint)
        return cls(processor, questions, model.max_encoder_len)

    def check(self, part: Part) -> None:
        """Raises PromptError for another number of images than one, or a text that is not read."""
        if len(part.images) != 1:
            raise PromptError(
                "this model reads one image in each prompt: give 'multi_modal_data': {'image': a "
                f"PIL image, an array, a path or bytes}}, not {len(part.images)} images"
            )
        if self.questions is None and part.has_tokens:
            raise PromptError(
                "the encoder of this model reads an image alone: text belongs to 'decoder_prompt'"
            )

    def expected_bytes(self, part: Part) -> int:
        """An estimate of what `read` takes. Raises anything for what is no image."""
        return self.processor.expected_bytes(part.images[0])

    def read(self, part: Part) -> EncoderInput:
        """Of a part that is checked. Raises PromptError for a text that is too long, and ImageError
        for an image that cannot be read."""
        if self.questions is None:
            return self.processor.encoder_input(part.images[0])
        text = self.questions.ids(part)
        read = self.processor.encoder_input(part.images[0], text=text)
        if read.num_tokens > self.most_tokens:
            raise PromptError(
                f"{len(text)} tokens of text behind {read.num_tokens - len(text)} of the image "
                f"are over the encoder's {self.most_tokens}: shorten the text"
            )
        return read
