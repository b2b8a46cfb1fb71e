"""What one line of a manifest, or one row of a dataset, asks for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import cached_property
from numbers import Real
from types import NoneType
from typing import Any

import msgspec

from antiphon.config.errors import ManifestError
from antiphon.config.foreign import shown
from antiphon.config.sampling import SamplingParams
from antiphon.jobs.manifest import MAX_LINE_BYTES, Line


@dataclass(frozen=True)
class Key:
    """A key of a line. `models`: which it is for. `others`: spellings of other tools' manifests."""

    meaning: str
    models: str = "all"
    others: tuple[str, ...] = ()


KEYS: Mapping[str, Key] = {
    "audio": Key(
        "path or address of a recording; a relative path begins at the manifest's folder",
        "speech",
        ("audio_filepath", "audio_path", "path"),
    ),
    "offset": Key("seconds before the part that is read; times stay the recording's", "speech"),
    "duration": Key("with `offset`: seconds that are read; without it a remark", "speech"),
    "text": Key("what the model reads; for speech models a remark, such as the reference"),
    "prompt": Key(
        "as `text`, and goes before it; for speech models what the decoder begins with, for clips "
        "of one window"
    ),
    "id": Key("text or a number, repeated in the output"),
    "language": Key("as `--language`", "speech", ("lang",)),
    "task": Key("as `--task`", "speech"),
    "timestamps": Key("as `--timestamps`", "speech"),
    "chunk_seconds": Key("as `--chunk-seconds`", "speech"),
    "source_language": Key("as `--source-language`", "text", ("source_lang", "src_lang")),
    "target_language": Key("as `--target-language`", "text", ("target_lang", "tgt_lang")),
    "timeout": Key("as `--timeout`"),
    "priority": Key("lower runs first"),
    "sampling": Key("sampling parameters by name", others=("sampling_params",)),
}
_OTHERS = {other: name for name, key in KEYS.items() for other in key.others}
_SAMPLING = [option.name for option in fields(SamplingParams) if option.repr]
_SPEECH_OPTIONS = ("language", "task", "timestamps", "chunk_seconds", "timeout", "priority")
_TEXT_OPTIONS = ("source_language", "target_language", "timeout", "priority")
_REMARKS_ON_TEXT = ("path", "offset", "duration")  # where a text is from; no settings of its model
_SETTINGS = [*KEYS, *_OTHERS, *_SAMPLING]
SAME_WORD = 0.85  # difflib's ratio above which an unknown key is taken for a misspelt one


@dataclass(frozen=True)
class Defaults:
    """What holds for all lines that do not say otherwise. `speech`: the model hears;
    else it reads text. Raises SamplingError."""

    speech: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def params(self) -> SamplingParams:
        return SamplingParams.of(self.sampling)


@dataclass(frozen=True)
class Entry:
    """`audio`: in any form that the engine takes, or an address. `span`: the offset,
    and the duration or None. `options`: keywords of the engine's call. `fields`: what
    else the line has, for the output."""

    number: int
    id: str | int | float | None = None
    audio: Any = None
    span: tuple[float, float | None] | None = None
    prompt: str | None = None
    params: SamplingParams = field(default_factory=SamplingParams)
    options: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)


def entry_of_line(line: Line, defaults: Defaults) -> Entry:
    """Raises ManifestError, and SamplingError for sampling parameters."""
    content = decode(line)
    for name in ("audio", *KEYS["audio"].others):
        if not isinstance(content.get(name, ""), (str, NoneType)):
            raise ManifestError(
                f"'{name}' must be a path or an address, not {shown(content[name])}"
            )
    return entry_of(line.number, content, defaults)


def decode(line: Line) -> dict[str, Any]:
    """The object on a line. Raises ManifestError."""
    if line.content is None:
        raise ManifestError(f"the line is longer than {MAX_LINE_BYTES >> 20} MiB")
    try:
        content = msgspec.json.decode(line.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ManifestError(
            f'a line must be a JSON object, as {{"audio": "call.mp3"}} is, not {shown(content)}'
        )
    return content


def entry_of(number: int, content: Mapping[str, Any], defaults: Defaults) -> Entry:
    """Raises ManifestError for a key of the wrong type or a probable misspelling, and
    SamplingError. A null counts as left out."""
    values, sampling, rest = _sorted(content, defaults.speech)
    for name in values:
        if KEYS[name].models == ("text" if defaults.speech else "speech"):
            raise ManifestError(f"'{name}' is for {KEYS[name].models} models")
    prompt, span = _text(values, "prompt"), None
    remarks: tuple[str, ...]
    if defaults.speech:
        span = _span(values)
        remarks = ("text",) if span else ("text", "duration")
    else:
        remarks = () if prompt is None else ("text",)
        prompt = _text(values, "text") if prompt is None else prompt
    audio = values.get("audio")
    if defaults.speech and (audio is None or (isinstance(audio, str) and not audio)):
        raise ManifestError("no 'audio': the path or the address of a recording")
    if not defaults.speech and prompt is None:
        raise ManifestError("neither 'text' nor 'prompt': what shall the model read?")
    names = _SPEECH_OPTIONS if defaults.speech else _TEXT_OPTIONS
    own = {name: values[name] for name in names if name in values}
    return Entry(
        number=number,
        id=_id(values.get("id")),
        audio=audio,
        span=span,
        prompt=prompt,
        params=_params(sampling, defaults),
        options={**defaults.options, **own} if own else defaults.options,
        fields={**{name: values[name] for name in remarks if name in values}, **rest},
    )


def _sorted(
    content: Mapping[str, Any], speech: bool
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What `KEYS` knows, by its first spelling; sampling parameters; everything else."""
    values: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in content.items():
        own = _OTHERS.get(name, name)
        if not speech and name in _REMARKS_ON_TEXT:
            rest[name] = value
        elif own in KEYS:
            if value is None:
                continue
            if own in values:
                raise ManifestError(f"'{name}' says '{own}' once more: leave one of them out")
            values[own] = value
        elif name in _SAMPLING:
            sampling[name] = value
        else:
            _check_spelling(name, content)
            rest[name] = value
    named = values.pop("sampling", {})
    if not isinstance(named, Mapping):
        raise ManifestError(f"'sampling' must be an object, not {shown(named)}")
    return values, {**sampling, **named}, rest


def _check_spelling(name: str, content: Mapping[str, Any]) -> None:
    """Raises ManifestError where `name` is nearly a key. Its plural is probably a remark."""
    for near in get_close_matches(name, _SETTINGS, n=1, cutoff=SAME_WORD):
        if near not in content and name != f"{near}s":
            raise ManifestError(f"unknown key '{name}'. Did you mean '{near}'?")


def _text(values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    if not isinstance(value, (str, NoneType)):
        raise ManifestError(f"'{name}' must be a text, not {shown(value)}")
    return value


def _id(value: Any) -> str | int | float | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, NoneType)):
        raise ManifestError(f"'id' must be a text or a number, not {shown(value)}")
    return value


def _span(values: Mapping[str, Any]) -> tuple[float, float | None] | None:
    """The offset and the duration in seconds; None for the whole recording."""
    offset, duration = values.get("offset"), values.get("duration")
    for name, value in (("offset", offset), ("duration", duration)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise ManifestError(f"'{name}' must be seconds, not {shown(value)}")
    if offset is None:
        return None
    if not 0 <= offset < math.inf or not (duration is None or 0 < duration < math.inf):
        raise ManifestError(
            f"offset={offset} and duration={duration} are no part of a recording: the offset must "
            "be at least 0 and the duration above 0 seconds"
        )
    return float(offset), None if duration is None else float(duration)


def _params(sampling: Mapping[str, Any], defaults: Defaults) -> SamplingParams:
    return SamplingParams.of({**defaults.sampling, **sampling}) if sampling else defaults.params
