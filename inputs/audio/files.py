"""Audio files of any container and codec that PyAV reads. All that can be decoded is kept."""

import io
from typing import Any

from antiphon.config.errors import AudioError
from antiphon.inputs.audio.declared_length import declared_seconds
from antiphon.inputs.audio.decoding import COUNTING, Decoding, states_times
from antiphon.inputs.audio.frames import forget_layout
from antiphon.inputs.audio.joined import Joined, Part, parts_of, recordings_in
from antiphon.inputs.audio.limits import MAX_SECONDS, too_long
from antiphon.inputs.audio.pcm import read_pcm
from antiphon.inputs.audio.places import size_of
from antiphon.inputs.audio.recording import END_TOLERANCE, Recording
from antiphon.inputs.audio.sound import Sound
from antiphon.inputs.media_files import open_media

SHORTEST_FRAME = 0.01  # seconds by which those may that count their samples
# Codecs whose frames have checksums. FFmpeg does not look at them unasked, and only with "explode"
# gives no sound of a damaged one. For other codecs, "explode" would refuse what they can conceal.
CHECKED, MARKED = {"err_detect": "crccheck+explode"}, {"err_detect": "crccheck"}
CHECKS = {
    **dict.fromkeys(("flac", "wavpack", "tta"), CHECKED),
    **dict.fromkeys(("ac3", "eac3"), MARKED),
}
LEANEST = 60.0  # bytes per second, of speech codecs that send nothing in pauses


def read_file(file: str | io.BytesIO, name: str, rate: int) -> Sound:
    """The best audio stream of a file as mono float32 at `rate` Hz, and behind it those of
    recordings that were joined to it. Raises AudioError."""
    sound = read_pcm(file, name, rate)
    return read_by_ffmpeg(file, name, rate) if sound is None else sound


def read_by_ffmpeg(file: str | io.BytesIO, name: str, rate: int) -> Sound:
    """As `read_file`, by FFmpeg."""
    joined = recordings_in(file)
    recording = _read(file, joined, name, rate, CHECKS)
    if not recording.num_frames:  # perhaps its encoder wrote wrong checksums from end to end
        recording = _read(file, joined, name, rate, {})
    return recording.finish()


def _read(
    file: str | io.BytesIO, joined: Joined, name: str, rate: int, checks: dict[str, dict[str, str]]
) -> Recording:
    import av

    recording: Recording | None = None
    for part in parts_of(file, joined):
        try:
            with open_media(part.file) as container:
                stream = container.streams.best("audio")
                codec = None if stream is None else stream.codec_context
                if codec is not None:
                    codec.options = checks.get(codec.name, {})
                    forget_layout(codec)
                    recording = _read_part(part, container, stream, recording, name, rate)
                elif recording is None:
                    what = "no audio stream" if stream is None else "audio in an unknown codec"
                    raise AudioError(f"{name}: holds {what}")
                else:
                    recording.unread(size_of(part.file))
        except av.FFmpegError as error:
            if recording is None:
                raise AudioError(f"{name}: not readable as audio ({error.strerror})") from error
            recording.unread(size_of(part.file))
        recording.unread(part.unread)
    assert recording is not None
    return recording


def _read_part(
    part: Part,
    container: Any,
    stream: Any,
    recording: Recording | None,
    name: str,
    rate: int,
) -> Recording:
    """Adds one of the recordings in a file to `recording`, None before the first."""
    import av

    seconds = _stated_seconds(container, stream, size_of(part.file))
    if seconds > MAX_SECONDS:
        raise too_long(name)
    if recording is None:
        recording = Recording(name, rate, seconds, stream.codec_context.name.startswith("pcm_"))
    recording.begin_part()
    declared = declared_seconds(part.file, container, stream)
    if declared is None:
        declared = seconds if states_times(container) else 0.0
    counts, start = container.format.name in COUNTING, (container.start_time or 0) / av.time_base
    if part.lacks_its_begin and container.format.name == "ogg":
        seconds += max(0.0, start)
    elif counts and not part.lacks_its_begin and 0 < start < declared:
        declared -= start  # the header is that of the longer one from which it was cut
    Decoding(container, stream, recording, seconds, part.lacks_its_begin).run()
    recording.end_part(declared, SHORTEST_FRAME if counts else END_TOLERANCE)
    return recording


def _stated_seconds(container: Any, stream: Any, size: int) -> float:
    """The container's duration; 0 where it states none, or more than `size` bytes can hold.

    A wrong header (of a stream that was cut, or never ended) is no reason to refuse a file.
    """
    import av

    seconds: float = (container.duration or 0) / av.time_base
    bytes_per_second = max(LEANEST, (stream.codec_context.bit_rate or 0) / 8 / 2)
    return seconds if 0 < seconds * bytes_per_second <= size else 0.0
