"""What `encode()` is given, as encoders take it."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from antiphon.config.errors import PromptError
from antiphon.inputs.foreign_errors import foreign_errors_as
from antiphon.inputs.prepared import EncoderInput
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.prompts import parse


def encoder_input(inputs: InputProcessor, source: Any, pooled: bool) -> EncoderInput:
    """A text, audio or an image in any form, or a prompt that holds it. `pooled`: one embedding is
    wanted of it. Raises InputError, also where the model gives no such thing."""
    model = inputs.model
    half = model.encoder
    if half is None:
        raise PromptError(f"{model.architecture} has no encoder: there is nothing to encode with")
    if pooled and getattr(half, "pooling", None) is None:
        raise PromptError(
            f"the encoder of {model.architecture} has no pooling: it gives hidden states alone "
            "(pooled=False)"
        )
    with foreign_errors_as(PromptError, f"an input of type {type(source).__name__}"):
        if inputs.images is not None:
            return inputs.images.alone(source, partial(inputs.key, "image"))
        is_prompt = isinstance(source, Mapping) and "multi_modal_data" in source
        if inputs.audio is not None and not is_prompt:
            source = {"multi_modal_data": {"audio": source}}
        parsed = parse(source, model.family.input)
        return inputs.text_media(parsed) if inputs.audio is None else inputs.audio_media(parsed)
