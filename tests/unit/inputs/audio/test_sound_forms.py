"""Audio in every form that callers hold it gives the same samples."""

import array
import io
import tempfile
import wave
from collections import UserDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from antiphon.config.errors import AudioError
from antiphon.inputs.audio.forms import expected_bytes, load_audio

RATE = 16_000
WHOLE = (20_000 * np.sin(np.arange(4000) / 7) * np.linspace(0.1, 1, 4000)).astype(np.int16)
SAMPLES = WHOLE.astype(np.float32) / 32768
STEREO = np.stack([SAMPLES, SAMPLES])
TENSOR = torch.from_numpy(SAMPLES)


def as_wav() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(WHOLE.tobytes())
    return buffer.getvalue()


class Unseekable(io.RawIOBase):
    """A socket or a pipe."""

    def __init__(self, content: bytes) -> None:
        self.inner = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: Any) -> int:
        return self.inner.readinto(buffer)


def spooled() -> Any:
    file = tempfile.SpooledTemporaryFile(max_size=1 << 20)  # noqa: SIM115
    file.write(as_wav())
    file.seek(0)
    return file


def just_written() -> io.BytesIO:
    file = io.BytesIO()
    file.write(as_wav())
    return file


class Decoder:
    """As torchcodec's AudioDecoder."""

    metadata = SimpleNamespace(duration_seconds=0.25)

    def get_all_samples(self) -> Any:
        return SimpleNamespace(data=TENSOR[None], sample_rate=RATE, pts_seconds=0.0)


FILES = {
    "bytes": as_wav,
    "bytearray": lambda: bytearray(as_wav()),
    "memoryview": lambda: memoryview(as_wav()),
    "BytesIO": lambda: io.BytesIO(as_wav()),
    "BytesIO at its end": just_written,
    "spooled file": spooled,
    "a pipe": lambda: Unseekable(as_wav()),
    "row with bytes": lambda: {"path": "gone.wav", "bytes": as_wav()},
}
ARRAYS = {
    "float32": lambda: SAMPLES,
    "float64": lambda: SAMPLES.astype(np.float64),
    "big-endian": lambda: SAMPLES.astype(">f4"),
    "every second": lambda: np.repeat(SAMPLES, 2)[::2],
    "list": SAMPLES.tolist,
    "tensor": lambda: TENSOR,
    "tensor with gradient": lambda: TENSOR.clone().requires_grad_(),
    "array.array": lambda: array.array("f", SAMPLES),
    "memoryview of floats": lambda: memoryview(array.array("f", SAMPLES)),
    "int16": lambda: WHOLE,
    "int32 that was int16": lambda: WHOLE.astype(np.int32),
    "int64 that was int16": lambda: WHOLE.astype(np.int64),
    "list of int": WHOLE.tolist,
    "int64 tensor": lambda: torch.from_numpy(WHOLE.astype(np.int64)),
    "int32 of full scale": lambda: WHOLE.astype(np.int32) << 16,
    "int32 of 24 bits": lambda: WHOLE.astype(np.int32) << 8,
    "[n, 2]": lambda: STEREO.T,
    "[2, n]": lambda: STEREO,
    "[1, n]": lambda: SAMPLES[None],
    "[n, 1]": lambda: SAMPLES[:, None],
    "[1, 1, n]": lambda: TENSOR[None, None],
    "int16 of two channels": lambda: np.stack([WHOLE, WHOLE], 1),
    "(samples, rate)": lambda: (SAMPLES, RATE),
    "(rate, samples)": lambda: (RATE, WHOLE),
    "[samples, rate]": lambda: [SAMPLES.tolist(), RATE],
    "float rate": lambda: (SAMPLES, 16000.0),
    "numpy rate": lambda: (SAMPLES, np.float64(RATE)),
    "tensor rate": lambda: (TENSOR, torch.tensor(RATE)),
    "datasets row": lambda: {"array": SAMPLES, "sampling_rate": RATE, "path": None},
    "pipeline": lambda: {"raw": SAMPLES, "sampling_rate": RATE},
    "another mapping": lambda: UserDict(waveform=TENSOR[None], sample_rate=RATE),
    "AudioDecoder": Decoder,
    "AudioSamples": lambda: Decoder().get_all_samples(),
}


@pytest.mark.parametrize("form", [*FILES, *ARRAYS])
def test_every_form_gives_the_same_samples(form: str) -> None:
    source = {**FILES, **ARRAYS}[form]()
    heard = load_audio(source, RATE)
    if form == "spooled file":
        source.close()
    assert heard.dtype == np.float32
    assert heard.flags.c_contiguous
    np.testing.assert_allclose(heard, SAMPLES, atol=1e-7)


@pytest.mark.parametrize("form", [*FILES, *ARRAYS])
def test_the_memory_of_every_form_is_known_before_it_is_read(form: str) -> None:
    source = {**FILES, **ARRAYS}[form]()
    expected, again = (expected_bytes(source, RATE) for _ in range(2))
    assert expected == again
    takes = load_audio(source, RATE).nbytes
    if form == "spooled file":
        source.close()
    assert takes == SAMPLES.nbytes
    assert expected >= takes
    if form in ARRAYS:
        assert expected == takes


def test_the_memory_at_another_rate() -> None:
    telephone = {"array": WHOLE, "sampling_rate": 8000}
    assert (
        expected_bytes(telephone, RATE) == load_audio(telephone, RATE).nbytes == 2 * WHOLE.size * 4
    )
    assert expected_bytes((np.zeros((2, 44_100)), 44_100), RATE) == RATE * 4


@pytest.mark.parametrize(
    ("source", "tolerance"),
    [
        ((SAMPLES.astype(np.float16), RATE), 5e-4),
        (TENSOR.bfloat16(), 4e-3),
        ((WHOLE // 256).astype(np.int8), 1 / 128),
        ((WHOLE // 256 + 128).astype(np.uint8), 1 / 128),  # WAV's 8 bits
    ],
)
def test_narrow_types(source: Any, tolerance: float) -> None:
    np.testing.assert_allclose(load_audio(source, RATE), SAMPLES, atol=tolerance)


def test_files_by_path_and_open_ones(tmp_path: Path) -> None:
    for name in ("clip.wav", "10:30.wav", "http:clip.wav", "%d.wav", "no extension", "clip.mp3"):
        path = tmp_path / name
        path.write_bytes(as_wav())
        np.testing.assert_array_equal(load_audio(path, RATE), SAMPLES)
        np.testing.assert_array_equal(load_audio(str(path), RATE), SAMPLES)
        with path.open("rb") as file:
            np.testing.assert_array_equal(load_audio(file, RATE), SAMPLES)
            np.testing.assert_array_equal(load_audio(file, RATE), SAMPLES)  # it is at its end now


def test_names_with_colons_relative_to_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("10:30.wav").write_bytes(as_wav())
    np.testing.assert_array_equal(load_audio("10:30.wav", RATE), SAMPLES)


def test_the_callers_array_is_left_alone() -> None:
    own = SAMPLES.copy()
    heard = load_audio(own, RATE)
    heard[:] = 0
    np.testing.assert_array_equal(own, SAMPLES)


@pytest.mark.parametrize("samples", [np.zeros(1, np.float32), np.zeros(100, np.int64)])
def test_silence_and_single_samples_are_sound(samples: np.ndarray) -> None:
    assert not load_audio(samples, RATE).any()


def test_overshoots_are_no_error() -> None:
    assert load_audio(SAMPLES * 4, RATE).max() > 2


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.float32])
@pytest.mark.parametrize("peak", [3, 100, 1000, 32767])
def test_no_integer_type_becomes_silence(dtype: type, peak: int) -> None:
    quiet = np.rint(np.sin(np.arange(4000) / 7) * peak).astype(np.int16)
    source = quiet / np.float32(32768) if dtype is np.float32 else quiet.astype(dtype)
    assert np.abs(load_audio(source, RATE)).max() == pytest.approx(peak / 32768, rel=0.01)


def test_too_long_is_said_before_anything_is_converted() -> None:
    hours = 7 * 3600 * RATE
    endless = np.broadcast_to(np.float32(0), (hours,))  # one number in memory
    decoder = Decoder()
    decoder.metadata = SimpleNamespace(duration_seconds=7 * 3600.0)
    stereo = np.broadcast_to(np.float32(0), (2, hours))
    for source in (
        endless,
        stereo,
        (RATE, endless),
        {"raw": endless, "sampling_rate": RATE},
        decoder,
    ):
        with pytest.raises(AudioError, match="longer than 6 hours; split it"):
            load_audio(source, RATE)


def test_a_long_file_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    header = bytearray(as_wav()[:44])
    size = 7 * 3600 * 8000
    header[24:36] = np.array([8000, 8000], "<u4").tobytes() + np.array([1, 8], "<u2").tobytes()
    header[40:44], header[4:8] = np.uint32(size).tobytes(), np.uint32(size + 36).tobytes()
    with path.open("wb") as file:
        file.write(header)
        file.truncate(44 + size)  # a file with a hole: nothing on the disk
    with pytest.raises(AudioError, match=r"long.wav: longer than 6 hours"):
        load_audio(path, RATE)
