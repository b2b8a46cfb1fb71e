"""The image of a prompt for a decoder that attends to it (TrOCR, Donut)."""

from dataclasses import dataclass

from antiphon.config.errors import PromptError
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageHalf
from antiphon.inputs.images.limits import ImageLimits
from antiphon.inputs.images.processor import ImageProcessor
from antiphon.inputs.prepared import EncoderInput
from antiphon.inputs.prompts import ParsedPrompt


def attends_to_an_image(model: ModelConfig) -> bool:
    return isinstance(model.encoder, ImageHalf) and (
        model.decoder_half is not None and model.decoder_half.cross_attention
    )


@dataclass(frozen=True)
class AttendedImage:
    """Reads the one image of each prompt."""

    processor: ImageProcessor

    @classmethod
    def of(cls, model: ModelConfig, limits: ImageLimits) -> "AttendedImage | None":
        """None for a model whose decoder attends to no images. Raises CheckpointError for a
        checkpoint without an image processor."""
        if not attends_to_an_image(model):
            return None
        half = model.encoder
        assert isinstance(half, ImageHalf)
        return cls(ImageProcessor(model.path, half, limits.fetching))

    def read(self, parsed: ParsedPrompt) -> EncoderInput:
        """Raises PromptError for another number of images than one, or other media, and ImageError
        for one that cannot be read."""
        part = parsed.encoder
        if part.audio is not None or len(part.images) != 1:
            given = "audio" if part.audio is not None else f"{len(part.images)} images"
            raise PromptError(
                "this model reads one image in each prompt: give 'multi_modal_data': "
                f"{{'image': a PIL image, an array, a path or bytes}}, not {given}"
            )
        if part.has_tokens:
            raise PromptError(
                "the encoder of this model reads an image alone: text belongs to 'decoder_prompt'"
            )
        return self.processor.encoder_input(part.images[0])
