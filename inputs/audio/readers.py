"""What the first recording would otherwise wait for."""

import numpy as np

from antiphon.config.errors import ConfigurationError
from antiphon.inputs.audio.voice_activity import RATE
from antiphon.inputs.media_files import formats


def load_readers() -> None:
    """Imports what reads files of sound, and runs the network that finds speech once, where it is
    installed. Takes about half a second: call it in a thread."""
    formats()
    from antiphon.inputs.audio.voice_model import load_voice_model  # imports torch

    try:
        model = load_voice_model()
    except ConfigurationError:  # the call that asks for it says so
        return
    model.probabilities(np.zeros(RATE, np.float32))
