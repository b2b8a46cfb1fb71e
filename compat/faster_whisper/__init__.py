"""faster-whisper's interface: `from antiphon.compat.faster_whisper import WhisperModel`.

The engine runs in this process. Calls of several threads share its batches.
"""

from antiphon.compat.faster_whisper.audio import decode_audio
from antiphon.compat.faster_whisper.folders import available_models, download_model
from antiphon.compat.faster_whisper.results import (
    Segment,
    TranscriptionInfo,
    TranscriptionOptions,
    Word,
)
from antiphon.compat.faster_whisper.transcribe import BatchedInferencePipeline, WhisperModel
from antiphon.compat.faster_whisper.vad import VadOptions

__all__ = [
    "BatchedInferencePipeline",
    "Segment",
    "TranscriptionInfo",
    "TranscriptionOptions",
    "VadOptions",
    "WhisperModel",
    "Word",
    "available_models",
    "decode_audio",
    "download_model",
]
