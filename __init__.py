"""Antiphon: a serving engine for encoder/decoder models on Ray. Encoders call, decoders respond."""

from antiphon.actors.engine import AsyncEngine
from antiphon.actors.outputs import CompletionOutput, Logprob, RequestOutput, Segment, StreamDelta, Transcription
from antiphon.client.engine import Engine
from antiphon.config.errors import AntiphonError
from antiphon.config.sampling import SamplingParams
from antiphon.inputs.sound import Skipped

__all__ = [
    "AntiphonError",
    "AsyncEngine",
    "CompletionOutput",
    "Engine",
    "Logprob",
    "RequestOutput",
    "SamplingParams",
    "Segment",
    "Skipped",
    "StreamDelta",
    "Transcription",
]
