"""WAV that is read without FFmpeg: the same samples, losses and refusals as with it."""

import io
import struct
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
from encoded_audio import DECLARING, RATE, UNDECLARING, encode, encoded, lost, tune
from hypothesis import given, settings
from hypothesis import strategies as st

from antiphon.config.errors import AudioError
from antiphon.inputs.audio import files, recording
from antiphon.inputs.audio.files import read_by_ffmpeg, read_file
from antiphon.inputs.audio.forms import read_sound
from antiphon.inputs.audio.limits import MAX_SECONDS
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
    with mock.patch.object(recording, "GATHERED", 0):  # each packet by itself
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("form", ["alone", "empty", "extensible"])
def test_regular_files_are_read_here(kind: tuple[int, int], channels: int, form: str) -> None:
    samples = sound_of("noise", 5001, channels, kind, 0)
    wav = Wav(kind, channels, 44_100, samples, form, tuple(OTHER_CHUNKS), tuple(OTHER_CHUNKS[::-1]))
    assert is_read_here(wav.content())
    assert_as_ffmpeg_reads_it(wav.content())


PLAIN = Wav((PCM, 16), 1, RATE, pcm(tune(RATE)[:, None], (PCM, 16)))
WHOLE = PLAIN.content()
ODD = Wav((PCM, 8), 1, RATE, pcm(tune(RATE)[:4001, None], (PCM, 8))).content()


def changed(place: int, number: int, size: int) -> bytes:
    """A whole file with another number of `size` bytes in its header."""
    return WHOLE[:place] + number.to_bytes(size, "little") + WHOLE[place + size :]


IRREGULAR = {
    "bytes behind it": WHOLE + b"1234",
    "another recording behind it": WHOLE + encoded("flac"),
    "the same one behind it": WHOLE * 2,
    "cut": WHOLE[:-1000],
    "cut in its header": WHOLE[:40],
    "streamed": changed(40, 0xFFFFFFFF, 4),
    "streamed, in both sizes": changed(40, 0xFFFFFFFF, 4)[:4] + b"\xff" * 4 + WHOLE[8:],
    "no length": changed(40, 0, 4),
    "half a sample": Wav((PCM, 16), 1, RATE, PLAIN.samples + b"1").content(),
    "A-law": changed(20, 6, 2),
    "an unknown codec": changed(20, 0, 2),
    "12 bits": changed(34, 12, 2),
    "no channels": changed(22, 0, 2),
    "65 channels": Wav((PCM, 8), 65, RATE, bytes(range(65)) * 99).content(),
    "999 Hz": Wav((PCM, 16), 1, 999, PLAIN.samples).content(),
    "another data rate": changed(28, RATE, 4),
    "another block": changed(32, 4, 2),
    "RF64": encoded("rf64"),
    "RIFX": b"RIFX" + WHOLE[4:],
    "ADPCM": encoded("wav-adpcm"),
    "mu-law": encoded("wav-8k"),
    "a FLAC": encoded("flac"),
    **{
        f"{name!r}, {len(content)} bytes {place}": PLAIN._replace(
            **{place: ((name, content),)}
        ).content()
        for name, content in UNKNOWN_CHUNKS
        for place in ("before", "behind")
    },
}


@pytest.mark.parametrize("name", IRREGULAR)
def test_others_are_left_to_ffmpeg(name: str) -> None:
    assert not is_read_here(IRREGULAR[name])
    assert_as_ffmpeg_reads_it(IRREGULAR[name])


@pytest.mark.parametrize("uncounted", [False, True])
def test_a_last_chunk_may_lack_its_padding(uncounted: bool) -> None:
    size = len(ODD) - 8 - 1
    content = (ODD[:4] + size.to_bytes(4, "little") + ODD[8:])[: None if uncounted else -1]
    assert is_read_here(content) is not uncounted
    assert_as_ffmpeg_reads_it(content)


@pytest.mark.parametrize("lead", [0, 4, 40_000])
@pytest.mark.parametrize(
    ("codec", "container"),
    [
        ("ac3", "spdif"),
        ("ac3", "ac3"),
        ("mp3", "mp3"),
        ("mp2", "mp2"),
        ("aac", "adts"),
        ("aac", "latm"),
    ],
)
def test_another_codec_in_16_bits_is_heard_as_such(codec: str, container: str, lead: int) -> None:
    samples = bytes(lead) + encode(codec, container, 48_000, layout="stereo")
    content = Wav((PCM, 16), 2, 48_000, samples[: len(samples) // 4 * 4]).content()
    assert not is_read_here(content)
    assert_as_ffmpeg_reads_it(content)


def test_bytes_paths_and_streams_need_no_ffmpeg(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = files.read_by_ffmpeg(io.BytesIO(WHOLE), "a.wav", RATE).samples
    monkeypatch.setattr(files, "open_media", None)
    path = tmp_path / "a.wav"
    path.write_bytes(WHOLE)
    for source in (WHOLE, bytearray(WHOLE), memoryview(WHOLE), path, str(path), io.BytesIO(WHOLE)):
        np.testing.assert_array_equal(read_sound(source, RATE).samples, expected)
    with path.open("rb") as file:
        np.testing.assert_array_equal(read_sound(file, RATE).samples, expected)


def test_a_file_that_is_too_long_is_refused_unread(tmp_path: Path) -> None:
    head = Wav((PCM, 8), 1, 1_000, b"").content()[:40]
    size = (MAX_SECONDS + 1) * 1_000
    path = tmp_path / "long.wav"
    path.write_bytes(b"RIFF" + (size + 36).to_bytes(4, "little") + head[8:])
    with path.open("ab") as file:
        file.write(size.to_bytes(4, "little"))
        file.truncate(44 + size)
    with pytest.raises(AudioError, match="longer than 6 hours"):
        read_pcm(str(path), "long.wav", RATE)


@pytest.mark.parametrize("samples", [len(PLAIN.samples) // 2, 3 << 18])
def test_what_is_cut_while_it_is_read_is_told(samples: int) -> None:
    """In the first of the pieces that are read at once, or the only one."""

    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            left = max(0, 40_045 - self.tell())
            read = super().read(size)
            return read[:left] if len(read) > 1 << 15 else read

    content = Wav((PCM, 16), 1, RATE, bytes(2 * samples)).content()
    sound = read_pcm(Shrinking(content), "a.wav", RATE)
    assert sound is not None
    assert len(sound.samples) == 20_000
    assert lost(sound) == pytest.approx((samples - 20_000) / RATE)


@pytest.mark.parametrize("name", [*DECLARING, *UNDECLARING])
def test_frames_sound_the_same_mixed_together_or_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(encoded(name))
    content[len(content) // 2 :: 997] = bytes(len(content[len(content) // 2 :: 997]))
    for whole in (encoded(name), bytes(content)):
        together = outcome(read_by_ffmpeg, whole)
        with monkeypatch.context() as patch:
            patch.setattr(recording, "GATHERED", 0)
            assert outcome(read_by_ffmpeg, whole) == together
