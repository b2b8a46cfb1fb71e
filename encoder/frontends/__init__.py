"""Frontends of encoders, one file per kind of input: raw arrays in, embedded tokens out."""

from collections.abc import Callable
from typing import Any

from antiphon.config.options import EngineConfig
from antiphon.encoder.frontends.audio import AudioFrontend
from antiphon.encoder.frontends.image import ImageFrontend, ImageTextFrontend
from antiphon.encoder.frontends.interface import Frontend
from antiphon.encoder.frontends.text import TextFrontend
from antiphon.encoder.frontends.waveform import WaveformFrontend
from antiphon.encoder.models.interface import EncoderModel
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.device import Target

# By `Half.frontend`.
FRONTENDS: dict[
    str, Callable[[ModelConfig, EncoderModel, Target, EngineConfig], Frontend[Any, Any]]
] = {
    "text": TextFrontend,
    "audio": AudioFrontend,
    "image": ImageFrontend,
    "image_text": ImageTextFrontend,
    "waveform": WaveformFrontend,
}


def build(
    config: ModelConfig, encoder: EncoderModel, target: Target, options: EngineConfig
) -> Frontend[Any, Any]:
    """The frontend for what the encoder of `config` takes."""
    assert config.encoder is not None
    return FRONTENDS[config.encoder.frontend](config, encoder, target, options)
