"""Transcriptions as text, subtitles, tables and JSON, in the formats that openai/whisper's command
writes."""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from antiphon.config.errors import ConfigurationError, nearest

if TYPE_CHECKING:
    from antiphon.engine.outputs import Segment, Transcription


def as_txt(result: "Transcription") -> str:
    """One segment a line."""
    return "".join(f"{segment.text.strip()}\n" for segment in result.segments)


def as_srt(result: "Transcription") -> str:
    """SubRip: numbered blocks, hours always, a comma before the milliseconds."""
    return "".join(
        f"{number}\n{_span(segment, ',', always_hours=True)}\n{_cue(segment.text)}\n\n"
        for number, segment in enumerate(result.segments, 1)
    )


def as_vtt(result: "Transcription") -> str:
    """WebVTT: a header line, hours only from the first hour on, a point before the milliseconds."""
    return "WEBVTT\n\n" + "".join(
        f"{_span(segment, '.', always_hours=False)}\n{_cue(segment.text)}\n\n"
        for segment in result.segments
    )


def as_tsv(result: "Transcription") -> str:
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


def as_json(result: "Transcription") -> str:
    """One object with all fields of `Transcription`."""
    return json.dumps(asdict(result), ensure_ascii=False) + "\n"


WRITERS: dict[str, Callable[["Transcription"], str]] = {
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


def _span(segment: "Segment", decimal_mark: str, *, always_hours: bool) -> str:
    start = _clock(segment.start, decimal_mark, always_hours)
    return f"{start} --> {_clock(segment.end, decimal_mark, always_hours)}"


def _clock(seconds: float, decimal_mark: str, always_hours: bool) -> str:
    total = _milliseconds(seconds)
    minutes, milliseconds = divmod(total, 60_000)
    hours, minutes = divmod(minutes, 60)
    prefix = f"{hours:02d}:" if always_hours or hours else ""
    return (
        f"{prefix}{minutes:02d}:{milliseconds // 1000:02d}{decimal_mark}{milliseconds % 1000:03d}"
    )


def _cue(text: str) -> str:
    """An arrow would end the cue's text; so would an empty line."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return "\n".join(line for line in lines if line).replace("-->", "->")
