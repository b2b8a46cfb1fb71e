"""Transcriptions as text, subtitles, tables and JSON, in the formats that openai/whisper's command
writes."""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antiphon.config.errors import ConfigurationError, nearest
from antiphon.engine.subtitles import Cue, SubtitleRules, cues

if TYPE_CHECKING:
    from antiphon.engine.outputs import Segment, Transcription, Word


def as_txt(result: "Transcription", rules: SubtitleRules | None = None) -> str:
    """One segment a line."""
    return "".join(f"{segment.text.strip()}\n" for segment in result.segments)


def as_srt(result: "Transcription", rules: SubtitleRules | None = None) -> str:
    """SubRip: numbered blocks, hours always, a comma before the milliseconds."""
    return "".join(
        f"{number}\n{_span(cue, ',', always_hours=True)}\n{_shown(cue.text)}\n\n"
        for number, cue in enumerate(cues(result, rules), 1)
    )


def as_vtt(result: "Transcription", rules: SubtitleRules | None = None) -> str:
    """WebVTT: a header line, hours only from the first hour on, a point before the milliseconds."""
    return "WEBVTT\n\n" + "".join(
        f"{_span(cue, '.', always_hours=False)}\n{_shown(cue.text)}\n\n"
        for cue in cues(result, rules)
    )


def as_tsv(result: "Transcription", rules: SubtitleRules | None = None) -> str:
    """Start and end in whole milliseconds, then the text."""
    return "start\tend\ttext\n" + "".join(
        "\t".join(
            [
                str(_milliseconds(segment.start)),
                str(_milliseconds(segment.end)),
                " ".join(segment.text.split()),
            ]
        )
        + "\n"
        for segment in result.segments
    )


def as_json(result: "Transcription", rules: SubtitleRules | None = None) -> str:
    """One object, see `as_mapping`."""
    return json.dumps(as_mapping(result), ensure_ascii=False) + "\n"


def as_mapping(result: "Transcription") -> dict[str, Any]:
    """All fields of `Transcription`; its segments and words by openai/whisper's names."""
    fields = {name: value for name, value in asdict(result).items() if name != "segments"}
    return {**fields, "segments": [_segment(segment) for segment in result.segments]}


def _segment(segment: "Segment") -> dict[str, Any]:
    """Without what was not asked for."""
    content = {**segment_mapping(segment), "language": segment.language}
    if segment.logprobs is not None:
        rows = segment.logprobs
        content["logprobs"] = [{id_: asdict(one) for id_, one in row.items()} for row in rows]
    if segment.words is not None:
        content["words"] = [word_mapping(word) for word in segment.words]
    return content


def segment_mapping(segment: "Segment") -> dict[str, Any]:
    """What every segment of openai/whisper's has."""
    return {
        "id": segment.id,
        "seek": segment.seek,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": segment.token_ids,
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }


def word_mapping(word: "Word") -> dict[str, Any]:
    return {
        "word": word.text,
        "start": word.start,
        "end": word.end,
        "probability": word.probability,
    }


Writer = Callable[["Transcription", SubtitleRules | None], str]
WRITERS: dict[str, Writer] = {
    "txt": as_txt,
    "srt": as_srt,
    "vtt": as_vtt,
    "tsv": as_tsv,
    "json": as_json,
}


def parse_formats(text: str) -> list[str]:
    """Reads 'srt,json' or 'all'. Raises ConfigurationError for an unknown format."""
    names = [name.strip().lower().lstrip(".") for name in text.split(",") if name.strip()]
    if "all" in names:
        return list(WRITERS)
    for name in names:
        if name not in WRITERS:
            raise ConfigurationError(
                f"unknown output format '{name}'.{nearest(name, ['all', *WRITERS])}"
            )
    if not names:
        raise ConfigurationError(f"give an output format: all, or some of {', '.join(WRITERS)}")
    return list(dict.fromkeys(names))


def write_atomically(path: Path, content: str) -> None:
    """Writes the whole file or none: an interrupted run leaves no half-written file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o666 & ~_umask())  # mkstemp's files are private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)  # there is no way to read it without setting it
    os.umask(mask)
    return mask


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _span(cue: Cue, decimal_mark: str, *, always_hours: bool) -> str:
    start = _clock(cue.start, decimal_mark, always_hours)
    return f"{start} --> {_clock(cue.end, decimal_mark, always_hours)}"


def _clock(seconds: float, decimal_mark: str, always_hours: bool) -> str:
    total = _milliseconds(seconds)
    minutes, milliseconds = divmod(total, 60_000)
    hours, minutes = divmod(minutes, 60)
    prefix = f"{hours:02d}:" if always_hours or hours else ""
    return (
        f"{prefix}{minutes:02d}:{milliseconds // 1000:02d}{decimal_mark}{milliseconds % 1000:03d}"
    )


def _shown(text: str) -> str:
    """An arrow would end the cue's text; so would an empty line."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return "\n".join(line for line in lines if line).replace("-->", "->")
