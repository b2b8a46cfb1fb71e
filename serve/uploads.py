"""Uploaded recordings: read from a form, measured before they are decoded."""

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO, Any, TypeVar

from fastapi import Request
from starlette.datastructures import FormData, UploadFile

from antiphon.inputs.audio.forms import expected_bytes_of_file
from antiphon.inputs.audio.pcm import TYPES
from antiphon.inputs.media_files import open_media
from antiphon.serve.errors import ApiError
from antiphon.serve.schemas.audio import LISTS, AudioBody

Form = TypeVar("Form", bound=AudioBody)
MAX_FIELDS = 64
HEAD_BYTES = 256  # of a WAV file, in which its format mostly is


class Upload:
    """A recording on disk or in memory, as the engine reads it: in one of its threads, and when
    there is room for its samples. `param`: the field of the request that it came in."""

    def __init__(self, file: IO[bytes], size: int, rate: int, param: str | None = None) -> None:
        self.size, self.param = size, param
        self.nbytes = expected_bytes_of_file(size, rate)  # that its samples will take
        self._file = file

    def read(self) -> bytes:
        self._file.seek(0)
        return self._file.read()

    def is_surely_within(self, longest: float) -> bool:
        """Whether a recording has at most `longest` seconds, as far as a glance at it tells: true
        of WAV files alone, whose samples have a known size."""
        self._file.seek(0)
        num_bytes = bytes_per_second(self._file.read(HEAD_BYTES))
        return num_bytes > 0 and self.size <= longest * num_bytes

    def check_length(self, longest: float) -> None:
        """Raises ApiError for a recording of more than `longest` seconds. Counts its packets, which
        decodes nothing. What is no recording is left to the engine, which says what is wrong."""
        import av

        seconds = 0.0
        self._file.seek(0)
        try:
            with open_media(self._file) as container:
                stream = container.streams.best("audio")
                if stream is None:
                    return
                for packet in container.demux(stream):
                    if packet.duration and packet.time_base:
                        seconds += float(packet.duration * packet.time_base)
                    if seconds > longest:
                        raise too_long(longest)
        except (av.FFmpegError, ValueError):
            return


def bytes_per_second(head: bytes) -> int:
    """Of the samples of a WAV file, from its beginning; 0 for any other file."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return 0
    place = 12
    while place + 24 <= len(head):
        size = int.from_bytes(head[place + 4 : place + 8], "little")
        if head[place : place + 4] == b"fmt ":
            tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", head, place + 8)
            return channels * rate * bits // 8 if (tag, bits) in TYPES else 0
        place += 8 + size + size % 2
    return 0


def too_long(longest: float) -> ApiError:
    return ApiError(
        400,
        f"the recording has over {longest:g} s, which is this server's limit",
        param="file",
        code="audio_too_long",
    )


@asynccontextmanager
async def form_data(request: Request) -> AsyncIterator[FormData]:
    """A multipart body, whose files are closed when the scope ends."""
    content_type = request.headers.get("content-type", "").lower()  # it has no case
    if not content_type.startswith("multipart/form-data"):
        raise ApiError(400, "send multipart/form-data with a 'file'", code="wrong_content_type")
    async with request.form(max_files=1, max_fields=MAX_FIELDS) as form:
        yield form


def checked_form(form: FormData, kind: type[Form]) -> tuple[Form, UploadFile]:
    """The fields and the recording of a form. Raises ApiError or ValidationError."""
    fields = _fields(form)
    file = fields.pop("file", None)
    if not isinstance(file, UploadFile):
        raise ApiError(400, "'file' is missing: send the recording in it", param="file")
    for name, value in fields.items():
        if isinstance(value, UploadFile):
            raise ApiError(400, f"'{name}' must be text, not a file", param=name)
    return kind.model_validate(fields), file


def _fields(form: FormData) -> dict[str, Any]:
    """One value for each name: a list for those that end with [], a mapping for those with a key
    in brackets. Raises ApiError."""
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        plain, _, key = name.removesuffix("]").partition("[")
        if plain in LISTS:
            fields.setdefault(plain, []).append(value)
        elif key and isinstance(fields.setdefault(plain, {}), dict):
            fields[plain][key] = value
        elif plain in fields:
            raise ApiError(400, f"'{plain}' is there twice", param=plain)
        else:
            fields[plain] = value
    return fields
