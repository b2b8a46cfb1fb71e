"""Sound that comes in pieces, as a WAV file: in memory while it is short, then on disk."""

import os
import struct
import tempfile
from typing import IO, cast

from antiphon.serve.errors import ApiError

HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")  # RIFF, fmt and data
SAMPLE_BYTES = 2
IN_MEMORY = 1 << 20  # bytes


class SoundBuffer:
    """16-bit mono samples at `rate` Hz, at most `limit` bytes of them. Places in it are samples of
    all the sound that ever came."""

    def __init__(self, rate: int, limit: int) -> None:
        self.rate, self.limit, self.size = rate, limit, 0
        self.start = 0  # the first sample that is here
        self._file = _new_file()

    @property
    def end(self) -> int:
        """The sample behind the last whole one."""
        return self.start + self.size // SAMPLE_BYTES

    def append(self, samples: bytes) -> None:
        """Raises ApiError if there is no room; then nothing was added."""
        if self.size + len(samples) > self.limit:
            raise ApiError(
                400,
                f"the buffer would have over {self.limit / SAMPLE_BYTES / self.rate:.1f} s of "
                "sound, which is this server's limit: commit it, or clear it",
                param="audio",
                code="buffer_too_large",
            )
        self._file.write(samples)
        self.size += len(samples)

    def take(self, end: int | None = None) -> tuple[IO[bytes], int]:
        """The sound before sample `end`, or the whole, as a WAV file and its size; the buffer goes
        on behind it. The caller closes the file. Raises ApiError if there is nothing, or half a
        sample at the end."""
        rest = b"" if end is None else self.read(end)
        size = self.size - len(rest)
        if not size or size % SAMPLE_BYTES:
            what = "is empty" if not size else "ends with half a sample"
            raise ApiError(400, f"the buffer {what}", code="input_audio_buffer_commit_empty")
        file, self._file = self._file, _new_file()
        file.seek(HEADER.size + size)
        file.truncate()
        file.seek(0)
        file.write(
            HEADER.pack(
                b"RIFF", HEADER.size - 8 + size, b"WAVE", b"fmt ", 16, 1, 1, self.rate,
                self.rate * SAMPLE_BYTES, SAMPLE_BYTES, 8 * SAMPLE_BYTES, b"data", size,
            )
        )  # fmt: skip
        self._go_on(self.start + size // SAMPLE_BYTES, rest)
        return file, HEADER.size + size

    def read(self, start: int, length: int = -1) -> bytes:
        """`length` samples from sample `start` on; -1: all that follow."""
        self._file.seek(HEADER.size + (max(start, self.start) - self.start) * SAMPLE_BYTES)
        sound = self._file.read(length * SAMPLE_BYTES if length >= 0 else -1)
        self._file.seek(0, os.SEEK_END)
        return sound

    def drop(self, end: int) -> None:
        """Forgets the sound before sample `end`."""
        if end > self.start:
            rest = self.read(end)
            self._file.close()
            self._file = _new_file()
            self._go_on(min(end, self.end), rest)

    def clear(self) -> None:
        """A half sample at the end goes too."""
        self._file.close()
        self._file = _new_file()
        self._go_on(self.end, b"")

    def _go_on(self, start: int, sound: bytes) -> None:
        self.start, self.size = start, len(sound)
        self._file.write(sound)

    def close(self) -> None:
        self._file.close()


def _new_file() -> IO[bytes]:
    file = cast("IO[bytes]", tempfile.SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115 # kept open
    file.write(bytes(HEADER.size))
    return file
