"""Which parts of a recording are heard: clips that the caller names, and where somebody speaks."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from itertools import pairwise
from typing import Any

from antiphon.config.errors import PromptError, nearest
from antiphon.config.foreign import shown
from antiphon.inputs.audio.voice_activity import FoundSpeech, VoiceOptions
from antiphon.inputs.calls.numbers import checked_flag, checked_number

Clip = tuple[float, float | None]  # seconds; an end of None is the recording's
PAUSE_IN_BATCHES = 160.0  # ms, faster-whisper's default where windows are decoded together
_VOICE = [field.name for field in fields(VoiceOptions)]


def checked_clips(value: Any) -> tuple[Clip, ...]:
    """From "start,end,start,end", a list of these numbers, or mappings with start and end. None is
    the whole recording. Raises PromptError."""
    if value is None:
        return ((0.0, None),)
    times = _times(value)
    if not times:
        return ((0.0, None),)
    ends: list[float | None] = [*times[1::2], *([None] if len(times) % 2 else [])]
    clips = list(zip(times[::2], ends, strict=True))
    for start, end in clips:
        if end is not None and end <= start:
            raise PromptError(
                f"clip_timestamps has a clip from {start:g} s to {end:g} s, which is no time"
            )
    for (_, end), (start, _) in pairwise(clips):
        if end is None or start < end:
            raise PromptError(
                f"clip_timestamps has a clip from {start:g} s, before the one ahead of it ends"
            )
    return tuple(clips)


def _times(value: Any) -> list[float]:
    wrong = PromptError(
        "clip_timestamps must be seconds, start,end,start,end,..., as a text or a list; or a list "
        f"of mappings with start and end; not {shown(value)}"
    )
    if isinstance(value, str):
        try:
            value = [float(part) for part in value.split(",") if part.strip()]
        except ValueError:
            raise wrong from None
    if isinstance(value, (bytes, Mapping)) or not isinstance(value, Iterable):
        raise wrong
    times: list[Any] = []
    for item in value:
        if not isinstance(item, Mapping):
            times.append(item)
        elif set(item) != {"start", "end"}:
            raise wrong
        else:
            times += [item["start"], item["end"]]
    return [checked_number("clip_timestamps", time, 0.0) for time in times]


def checked_voice(keywords: Any, in_turn: bool) -> VoiceOptions | None:
    """None where everything is heard. `in_turn`: whether windows come one after another. Raises
    PromptError."""
    if not checked_flag("vad_filter", keywords.vad_filter):
        if keywords.vad_parameters is not None:
            raise PromptError("vad_parameters need vad_filter=True")
        return None
    if isinstance(keywords.vad_parameters, FoundSpeech):
        return keywords.vad_parameters
    options = {} if in_turn else {"min_silence_duration_ms": PAUSE_IN_BATCHES}
    for name, value in _voice_parameters(keywords.vad_parameters).items():
        if name not in _VOICE:
            raise PromptError(f"vad_parameters has no '{name}'.{nearest(str(name), _VOICE)}")
        if value is None and name == "neg_threshold":
            continue
        if name == "max_speech_duration_s" and value == float("inf"):
            continue
        most = 1.0 if "threshold" in name else float("inf")
        options[name] = checked_number(name, value, 0.0, most)
    return VoiceOptions(**options)


def _voice_parameters(value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if isinstance(value, VoiceOptions):
        return vars(value)
    if not isinstance(value, Mapping):
        raise PromptError(f"vad_parameters must be a mapping, not {shown(value)}")
    return value
