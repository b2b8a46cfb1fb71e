"""How voice activity is detected, as `faster_whisper.vad` names it."""

from dataclasses import dataclass


@dataclass
class VadOptions:
    """threshold, neg_threshold: of the probability of speech, where it begins and where it ends;
    neg_threshold None is 0.15 below the other. A pause of min_silence_duration_ms ends a span of
    speech; shorter ones than min_speech_duration_ms don't count; those over max_speech_duration_s
    are cut. speech_pad_ms is added at both ends of each."""

    threshold: float = 0.5
    neg_threshold: float | None = None
    min_speech_duration_ms: int = 0
    max_speech_duration_s: float = float("inf")
    min_silence_duration_ms: int = 2000
    speech_pad_ms: int = 400
