"""What a glance at an upload tells of its length."""

import io
import struct

import pytest

from antiphon.client.sound import wav
from antiphon.serve.uploads import Upload, bytes_per_second


def upload(content: bytes) -> Upload:
    return Upload(io.BytesIO(content), len(content), 16_000)


@pytest.mark.parametrize(("sample", "width"), [(0, 2), (0.0, 4)])
def test_a_wav_file_says_how_long_it_can_be(sample: float, width: int) -> None:
    content = wav([sample] * 8000, 8000)
    assert bytes_per_second(content) == 8000 * width
    header = len(content) - 8000 * width
    assert upload(content).is_surely_within(1.001 + header / (8000 * width))
    assert not upload(content).is_surely_within(1.0)  # its header counts: av looks closer


def test_chunks_before_the_format_are_passed_over() -> None:
    plain = wav([0] * 10, 8000)
    remark = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    assert bytes_per_second(plain[:12] + remark + plain[12:]) == 16_000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"RIFF\0\0\0\0WAVE",
        b"OggS" + bytes(60),
        wav([0] * 10, 8000).replace(b"fmt ", b"fmt_"),
        wav([0] * 10, 8000)[:20] + struct.pack("<H", 2) + wav([0] * 10, 8000)[22:],  # ADPCM
        wav([0] * 10, 0),
    ],
)
def test_other_files_say_nothing(content: bytes) -> None:
    assert not upload(content).is_surely_within(1e9)
