"""Recordings as samples, as `faster_whisper.audio` gives them."""

import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from antiphon.config.errors import AudioError
from antiphon.inputs.audio.forms import load_audio
from antiphon.inputs.audio.frames import forget_layout
from antiphon.inputs.media_files import open_media

RATE = 16_000  # Hz, of Whisper's models


def decode_audio(
    input_file: str | Path | BinaryIO, sampling_rate: int = RATE, split_stereo: bool = False
) -> Any:
    """float32 samples [n] of a file in any format, all channels mixed.

    `split_stereo`: the left and the right channel instead, as a pair. Raises AudioError.
    """
    if not split_stereo:
        return load_audio(input_file, sampling_rate)
    return _channels(input_file, sampling_rate)


def _channels(input_file: str | Path | BinaryIO, rate: int) -> tuple[np.ndarray, np.ndarray]:
    import av

    source = input_file if hasattr(input_file, "read") else str(Path(input_file).expanduser())
    if isinstance(input_file, (bytes, bytearray)):
        source = io.BytesIO(input_file)
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=rate)
    blocks: list[np.ndarray] = []
    try:
        with open_media(source) as container:
            forget_layout(container.streams.audio[0].codec_context)
            for frame in container.decode(audio=0):
                blocks += [part.to_ndarray() for part in resampler.resample(frame)]
        blocks += [part.to_ndarray() for part in resampler.resample(None)]
    except (av.FFmpegError, IndexError) as error:
        raise AudioError(f"{source}: its channels can't be decoded ({error})") from None
    left, right = np.concatenate(blocks, axis=1) if blocks else np.zeros((2, 0), np.float32)
    return left, right
