"""What is said once about a checkpoint: where text may differ from what its authors measured."""

import logging

from antiphon.families.checkpoint import ModelConfig

logger = logging.getLogger(__name__)

# In config.json: encoder windows of a clip's own length were measured with this model.
WINDOW_KEY = "antiphon_encoder_window"
SHORT_WINDOWS = (
    "encoder_window='auto': nothing says that %s hears right in short windows. Published Whisper "
    "does not: in 207 words of tiny.en, 688 differed from the full window's text (loops). "
    "Measure it, then set '%s': 'auto' in config.json; or leave the option at 'full'"
)


def warn_of(model: ModelConfig, encoder_window: str) -> None:
    audio = model.audio
    is_short = encoder_window == "auto" and audio is not None and not audio.any_length
    if is_short and model.raw.get(WINDOW_KEY) != "auto":
        logger.warning(SHORT_WINDOWS, model.path.name, WINDOW_KEY)
    if model.defaults.ignored:
        logger.warning(
            "the generation config of %s is obeyed but for %s: text may differ from transformers'",
            model.path,
            ", ".join(model.defaults.ignored),
        )
