"""WAV that is read without FFmpeg: the same samples, losses and refusals as with it."""

import io
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from encoded_audio import RATE, encode, encoded, tune
from hypothesis import example, given, settings
from hypothesis import strategies as st

from antiphon.config.errors import AudioError
from antiphon.inputs.audio.files import read_by_ffmpeg, read_file
from antiphon.inputs.audio.forms import read_sound
from antiphon.inputs.audio.pcm import EXTENSIBLE, FLOAT, GUID, PCM, TYPES, read_pcm

KINDS = sorted(TYPES)
RATES = [1_000, 7_999, 8_000, 11_025, RATE, 22_050, 44_100, 48_000, 192_000]
OTHER_CHUNKS = [
    (b"LIST", b"INFOISFT\x05\0\0\0Lavf\0\0"),
    (b"LIST", b"adtlnote"),
    (b"fact", bytes(4)),
    (b"fact", b"\x07\0\0\0"),
    (b"PEAK", bytes(24)),
    (b"JUNK", bytes(28)),
    (b"junk", b"\1"),
    (b"PAD ", b""),
    (b"FLLR", bytes(4001)),
    (b"bext", bytes(602)),
]
UNKNOWN_CHUNKS = [
    (b"cue ", struct.pack("<7I", 1, 1, 0, 0x61746164, 0, 0, 0)),
    (b"LIST", b"I"),
    (b"id3 ", b"ID3\3\0\0\0\0\0\0"),
    (b"ABCD", b"1"),
    (b"ds64", bytes(28)),
    (b"data", bytes(8)),
]


class Wav(NamedTuple):
    kind: tuple[int, int]
    channels: int
    rate: int
    samples: bytes
    form: str = "alone"
    before: tuple[tuple[bytes, bytes], ...] = ()
    behind: tuple[tuple[bytes, bytes], ...] = ()

    def content(self) -> bytes:
        chunks = [(b"fmt ", self._format()), *self.before, (b"data", self.samples), *self.behind]
        body = b"WAVE"
        for name, content in chunks:
            body += name + len(content).to_bytes(4, "little") + content + bytes(len(content) % 2)
        return b"RIFF" + len(body).to_bytes(4, "little") + body

    def _format(self) -> bytes:
        (tag, bits), block = self.kind, self.channels * self.kind[1] // 8
        numbers = (self.channels, self.rate, self.rate * block, block, bits)
        if self.form == "extensible":
            mask = (1 << self.channels) - 1
            extension = struct.pack("<HHIH", 22, bits, mask, tag) + GUID
            return struct.pack("<HHIIHH", EXTENSIBLE, *numbers) + extension
        return struct.pack("<HHIIHH", tag, *numbers) + bytes(2 if self.form == "empty" else 0)


def pcm(sound: np.ndarray, kind: tuple[int, int]) -> bytes:
    """Samples [n, channels] in [-1, 1] as bytes of a WAV file."""
    tag, bits = kind
    if tag == FLOAT:
        return sound.astype(TYPES[kind]).tobytes()
    whole = np.clip(np.rint(sound * 2.0 ** (bits - 1)), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if bits == 24:
        return whole.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return (whole + 128 * (bits == 8)).astype(TYPES[kind]).tobytes()


SOUNDS = ("noise", "quiet", "cancelling", "partly cancelling", "NaN", "in another unit", "raw")


def sound_of(name: str, count: int, channels: int, kind: tuple[int, int], seed: int) -> bytes:
    random = np.random.default_rng(seed)
    if name == "raw":
        return random.bytes(count * channels * kind[1] // 8)
    sound = random.uniform(-1, 1, (count, channels)) * (1e-5 if name == "quiet" else 0.7)
    middle = count // 3 if name == "partly cancelling" else 0
    if name.endswith("cancelling") and channels > 1:
        sound[middle:, 1] = -sound[middle:, 0]
        sound[middle:, 2:] = 0
    if name == "in another unit":
        sound *= 32768
    if name == "NaN" and count:
        for start in random.integers(0, count, 3):
            sound[start : start + 50 : 2] = random.choice([np.nan, np.inf, 1e30])
    with np.errstate(invalid="ignore", over="ignore"):
        return pcm(np.nan_to_num(sound) if kind[0] == PCM else sound, kind)


@st.composite
def wavs(draw: st.DrawFn) -> Wav:
    kind, channels = draw(st.sampled_from(KINDS)), draw(st.integers(1, 9))
    count = draw(st.one_of(st.integers(0, 300), st.integers(0, 150_000)))
    others = st.lists(st.sampled_from(OTHER_CHUNKS), max_size=3).map(tuple)
    name, seed = draw(st.sampled_from(SOUNDS)), draw(st.integers(0, 1 << 32))
    samples = sound_of(name, count // channels, channels, kind, seed)
    form = draw(st.sampled_from(["alone", "empty", "extensible"]))
    rate = draw(st.sampled_from(RATES))
    return Wav(kind, channels, rate, samples, form, draw(others), draw(others))


def outcome(read: object, content: bytes) -> tuple[object, object]:
    try:
        sound = read(io.BytesIO(content), "a.wav", RATE)  # type: ignore[operator]
    except AudioError as error:
        return None, str(error)
    return sound.samples.tobytes(), sound.skipped


def assert_as_ffmpeg_reads_it(content: bytes) -> None:
    samples, told = outcome(read_file, content)
    expected, expected_told = outcome(read_by_ffmpeg, content)
    assert told == expected_told
    assert samples == expected


def is_read_here(content: bytes) -> bool:
    return read_pcm(io.BytesIO(content), "a.wav", RATE) is not None


@settings(max_examples=150, deadline=None)
@given(wavs())
def test_the_same_as_with_ffmpeg(wav: Wav) -> None:
    assert_as_ffmpeg_reads_it(wav.content())


@settings(max_examples=150, deadline=None)
@given(wavs(), st.data())
def test_what_is_damaged_is_the_same_too(wav: Wav, data: st.DataObject) -> None:
    content = bytearray(wav.content())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, min(len(content) - 1, 120)))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(0), st.integers(-9, 9)))
    whole = bytes(content) + bytes(cut) if cut >= 0 else bytes(content)[:cut]
    assert_as_ffmpeg_reads_it(whole)
