"""Recordings and videos as FFmpeg opens them.

Some formats that FFmpeg knows are texts that name other files, addresses or ports: playlists,
and descriptions of streams. Whoever sends such a text could read files of this machine by it, reach
its network, or have a thread wait for ever. So they are no recordings here, and what is not a path
itself opens nothing else.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

BUFFER = 1 << 18  # bytes: each read of a file object waits for its turn in the interpreter
REFERRING = {"concat", "dash", "hls", "imf", "lavfi", "rtp", "rtsp", "sap", "sdp"}


def open_media(file: Any) -> Any:
    """PyAV's container of a path or of a file object. Raises av.FFmpegError."""
    import av

    options = {"format_whitelist": formats(), "protocol_whitelist": "none"}
    if isinstance(file, str):
        # Absolute, or FFmpeg takes what stands before a colon in the name for a protocol.
        file, options["protocol_whitelist"] = os.path.abspath(file), "file"
    try:
        return av.open(file, container_options=options, buffer_size=BUFFER, **_metadata_options())
    except av.FFmpegError as error:
        if error.errno != errno.EINVAL:  # what FFmpeg says of a format that it may not read
            raise
        reason = f"{error.strerror}; playlists of other files are not read"
        raise type(error)(error.errno, reason) from None


def _metadata_options() -> dict[str, str]:
    """What lets titles that are not UTF-8 pass: an option before PyAV 19, a rule from there on."""
    import av

    return {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}


@cache
def formats() -> str:
    """Those that are read, as FFmpeg lists them. The first call imports PyAV."""
    import av

    names = set(",".join(av.formats_available).split(","))
    return ",".join(sorted(names - REFERRING))


@contextmanager
def kept_place(file: Any) -> Iterator[None]:
    """An open file is afterwards where it was before."""
    place = file.tell()
    try:
        yield
    finally:
        file.seek(place)
