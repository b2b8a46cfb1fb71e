"""Antiphon: a serving engine for encoder/decoder models on Ray. Encoders call, decoders respond.

Names are imported when they are first used: torch and Ray take seconds, and `antiphon --help` or a
usage error need neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from antiphon.config.errors import AntiphonError
    from antiphon.config.sampling import SamplingParams
    from antiphon.engine.async_engine import AsyncEngine
    from antiphon.engine.outputs import (
        CompletionOutput,
        Logprob,
        RequestOutput,
        Segment,
        StreamDelta,
        Transcription,
    )
    from antiphon.engine.sync_engine import Engine
    from antiphon.inputs.audio.sound import Skipped

__version__ = "0.1.0"

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
    "__version__",
]

_MODULES = {
    "AntiphonError": "antiphon.config.errors",
    "AsyncEngine": "antiphon.engine.async_engine",
    "CompletionOutput": "antiphon.engine.outputs",
    "Engine": "antiphon.engine.sync_engine",
    "Logprob": "antiphon.engine.outputs",
    "RequestOutput": "antiphon.engine.outputs",
    "SamplingParams": "antiphon.config.sampling",
    "Segment": "antiphon.engine.outputs",
    "Skipped": "antiphon.inputs.audio.sound",
    "StreamDelta": "antiphon.engine.outputs",
    "Transcription": "antiphon.engine.outputs",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
