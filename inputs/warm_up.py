"""What the first call would wait for: imports, a compiled chat template, decoders of files."""

import io
import logging
import struct
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from antiphon.config.errors import ConfigurationError, describe
from antiphon.config.sampling import SamplingParams
from antiphon.inputs.audio.voice_activity import RATE
from antiphon.inputs.encoder_inputs import EncoderInputs
from antiphon.inputs.images.processor import ImageProcessor
from antiphon.inputs.media_files import formats
from antiphon.inputs.processor import InputProcessor

logger = logging.getLogger(__name__)

WORDS = "What is shown here?"
PICTURE = (48, 32)  # width and height; some processors enlarge it, some reduce it
PICTURE_FILES = ("PNG", "JPEG")
AU_INT16 = 3  # the number of 16-bit samples in AU


def warm_up(inputs: InputProcessor, encoder_inputs: EncoderInputs) -> None:
    """Reads small inputs of every kind that the checkpoint takes, and makes a token's text. Takes
    up to a second: call it in a thread."""
    for use in _uses(inputs, encoder_inputs):
        try:
            use()
        except Exception as error:  # a checkpoint's own parts may raise anything; a call says so
            logger.info("not made ready before the first call: %s", describe(error))


def _uses(inputs: InputProcessor, encoder_inputs: EncoderInputs) -> Iterator[Callable[[], object]]:
    model = inputs.model
    if model.decoder_half is not None:
        yield partial(_write, inputs)
        if inputs.chat.has_template:
            yield partial(inputs.chat.plain, {"messages": [{"role": "user", "content": WORDS}]})
    if encoder_inputs.images is not None:
        for name in PICTURE_FILES:
            yield partial(_read_picture, encoder_inputs.images, name)
    if inputs.images is not None and inputs.images.videos is not None:
        yield formats  # imports what reads videos
    if inputs.audio is not None:
        yield partial(_read_sound, inputs, inputs.audio.sampling_rate // 2)
        yield _find_speech


def _write(inputs: InputProcessor) -> None:
    """The text of a few tokens, at once and as they come."""
    ids = inputs.tokenizer(WORDS).input_ids
    inputs.decode(ids)
    stream = inputs.text_stream(SamplingParams())
    stream.add(ids)
    stream.take(final=True)


def _read_picture(images: ImageProcessor, name: str) -> None:
    """From a file in the format `name`."""
    from PIL import Image  # not above: commands without images need no Pillow

    content = io.BytesIO()
    Image.new("RGB", PICTURE).save(content, name)
    images.encoder_input(content.getvalue())


def _read_sound(inputs: InputProcessor, rate: int) -> None:
    """A tenth of a second of noise that a model hears once it is resampled, in a file (AU) that is
    read by FFmpeg, unlike WAV."""
    samples = np.random.default_rng(0).integers(-3000, 3000, rate // 10).astype(">i2").tobytes()
    head = struct.pack(">4s5I", b".snd", 24, len(samples), AU_INT16, rate, 1)
    inputs.read_sound(head + samples)


def _find_speech() -> None:
    """Runs the network that finds speech once, where it is installed."""
    from antiphon.inputs.audio.voice_model import load_voice_model  # imports torch

    try:
        model = load_voice_model()
    except ConfigurationError:  # the call that asks for it says so
        return
    model.probabilities(np.zeros(RATE, np.float32))
