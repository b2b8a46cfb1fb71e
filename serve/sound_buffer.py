"""Sound that comes in pieces, as a WAV file: in memory while it is short, then on disk."""

import struct
import tempfile
from typing import IO, cast

from antiphon.serve.errors import ApiError

HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")  # RIFF, fmt and data
SAMPLE_BYTES = 2
IN_MEMORY = 1 << 20  # bytes


class SoundBuffer:
    """16-bit mono samples at `rate` Hz, at most `limit` bytes of them."""

    def __init__(self, rate: int, limit: int) -> None:
        self.rate, self.limit, self.size = rate, limit, 0
        self._file = _new_file()

    @property
    def seconds(self) -> float:
        return self.size / SAMPLE_BYTES / self.rate

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

    def take(self) -> tuple[IO[bytes], int]:
        """The whole as a WAV file and its size; the buffer is empty then. The caller closes the
        file. Raises ApiError if there is nothing, or half a sample at the end."""
        if not self.size or self.size % SAMPLE_BYTES:
            what = "is empty" if not self.size else "ends with half a sample"
            raise ApiError(400, f"the buffer {what}", code="input_audio_buffer_commit_empty")
        file, size = self._file, self.size
        file.seek(0)
        file.write(
            HEADER.pack(
                b"RIFF", HEADER.size - 8 + size, b"WAVE", b"fmt ", 16, 1, 1, self.rate,
                self.rate * SAMPLE_BYTES, SAMPLE_BYTES, 8 * SAMPLE_BYTES, b"data", size,
            )
        )  # fmt: skip
        self._file, self.size = _new_file(), 0
        return file, HEADER.size + size

    def clear(self) -> None:
        self._file.close()
        self._file, self.size = _new_file(), 0

    def close(self) -> None:
        self._file.close()


def _new_file() -> IO[bytes]:
    file = cast("IO[bytes]", tempfile.SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115 # kept open
    file.write(bytes(HEADER.size))
    return file
