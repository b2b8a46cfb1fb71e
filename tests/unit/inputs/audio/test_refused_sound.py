"""What can't be read as audio is an AudioError of its own, whatever the object raises."""

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from antiphon.config.errors import AudioError, PromptError
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.audio.forms import load_audio
from antiphon.inputs.processor import InputProcessor

RATE = 16_000
WHOLE = (20_000 * np.sin(np.arange(4000) / 7)).astype(np.int16)
SAMPLES = WHOLE.astype(np.float32) / 32768


class Hostile:
    """Whatever is asked of it goes wrong (pytest itself asks for names with underscores)."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError if name.startswith("_") else RuntimeError("no attribute for you")


class BadRead:
    def read(self, *_: Any) -> bytes:
        raise OSError("the disk is gone")


class BadArray:
    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise MemoryError


class AsyncFile:
    async def read(self) -> bytes:
        return b""


class EmptyPipe(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return 0


REFUSED: list[tuple[Any, str]] = [
    (None, "not NoneType"),
    (True, "not bool"),
    (17, "not int 17"),
    (3.5, "not float"),
    (object(), "not object"),
    (Hostile(), "RuntimeError: no attribute"),
    (BadRead(), "OSError: the disk is gone"),
    (BadArray(), "MemoryError"),
    (AsyncFile(), "give its 'file'"),
    (iter([1.0, 2.0]), "must be a path"),
    ({1, 2}, "must be a path"),
    (io.StringIO("RIFF"), "open it with mode 'rb'"),
    (io.BytesIO(), "0 bytes"),
    (io.BufferedReader(EmptyPipe()), "0 bytes"),
    (bytearray(), "0 bytes"),
    (b"\x00" * 5000, "not readable as audio"),
    ("", "the path of the recording is empty"),
    ("no.wav", "no such file"),
    ("a\0b", "cannot be opened"),
    ("UklGRiQAAABXQVZF" * 100, r"cannot be opened \(File name too long\).*base64"),
    ("https://example.com/a.wav", "addresses are not fetched"),
    ("~nobody-at-all/x.wav", "RuntimeError|no such file"),
    (Path("/"), "is a folder"),
    ((), "not 0 values"),
    ((SAMPLES,), "not 1 values"),
    ((SAMPLES, RATE, 1), "not 3 values"),
    ((SAMPLES, None), "sampling rate None"),
    ((SAMPLES, "16000"), "sampling rate '16000'"),
    ((SAMPLES, True), "sampling rate True"),
    ((SAMPLES, 16000.5), "sampling rate 16000.5"),
    ((SAMPLES, float("nan")), "sampling rate nan"),
    ((SAMPLES, -1), "sampling rate -1"),
    ((SAMPLES, SAMPLES), "sampling rate array"),
    ((RATE, RATE), "the samples are int 16000"),
    (("call.wav", RATE), "the samples are str 'call.wav'"),
    ([], "empty"),
    (["a.wav", "b.wav"], r"call transcribe_all\(\)"),
    ([b"RIFF", b"RIFF"], r"call transcribe_all\(\)"),
    ([{"array": SAMPLES, "sampling_rate": RATE}], r"call transcribe_all\(\)"),
    ([None, None], "not object"),
    (["0.1", 0.2, 0.3], r"call transcribe_all\(\)"),
    ([[0.1, 0.2], [0.1]], "differ in length"),
    ([SAMPLES, SAMPLES[:-1]], "differ in length"),
    ([0.1, None, 0.2], "not object"),
    (np.array(["a", "b"]), "not <U1"),
    (np.zeros(10, bool), "not bool"),
    (np.zeros(10, complex), "not complex128"),
    (np.zeros(10, np.uint16), "not uint16"),
    (np.zeros(10, "datetime64[s]"), "not datetime64"),
    (np.float32(0.5), "shape"),
    (np.zeros((0,), np.float32), "empty"),
    (np.zeros((2, 0), np.float32), "empty"),
    (np.zeros((2, 3, 400), np.float32), "not \\[2, 3, 400\\]"),
    (np.zeros((100, 200), np.float32), "must have shape"),
    (np.zeros((60, 60), np.float32), "which axis is time"),
    (np.array([0.0, np.nan, np.inf] * 10, np.float32), "20 of 30 samples are NaN or infinite"),
    (np.full(10, 1e300), "10 of 10 samples are NaN or infinite|reaches"),
    (WHOLE.astype(np.float32), "reaches .* divide 16-bit values by 32768"),
    (WHOLE.astype(np.float64) * 1000, "divide 16-bit values"),
    (WHOLE.astype(np.int64) << 30, "beyond 32 bits"),
    ((WHOLE // 256 + 128).astype(np.int64), "give them as uint8"),
    (torch.zeros(10, dtype=torch.complex64), "not complex64"),
    (torch.zeros(10, device="meta"), "Error: "),
    (torch.zeros(10).to_sparse(), "Error: "),
    ({}, "this one has nothing"),
    ({"array": SAMPLES}, "needs their 'sampling_rate'"),
    ({"array": None, "sampling_rate": RATE}, "must hold 'array'"),
    ({"bytes": None, "path": None}, "must hold 'array'"),
    ({"bytes": b"x", "path": None}, "not readable as audio"),
    ({"audio": {"array": SAMPLES, "sampling_rate": RATE}}, "Give the value of 'audio' alone"),
    ({"bytes": {"bytes": {}}}, "this one has nothing"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "message"),
    REFUSED,
    ids=[f"{i}-{type(s).__name__}" for i, (s, _) in enumerate(REFUSED)],
)
def test_what_is_no_sound_is_an_audio_error_of_its_own(source: Any, message: str) -> None:
    with pytest.raises(AudioError, match=f"(?s){message}") as refused:
        load_audio(source, RATE)
    assert len(str(refused.value)) < 500, "an input's content does not belong into its error"


@pytest.fixture(scope="module")
def whisper(whisper_folder: Path) -> InputProcessor:
    return InputProcessor(ModelConfig.load(ModelOptions(str(whisper_folder))))


@pytest.mark.parametrize(
    "prompt",
    [
        Hostile(),
        {"multi_modal_data": {"audio": Hostile()}},
        {"multi_modal_data": {"audio": BadArray()}},
        {"multi_modal_data": {"audio": SAMPLES}, "prompt_token_ids": Hostile()},
        {"multi_modal_data": {"audio": SAMPLES}, "prompt_token_ids": itertools.repeat(None)},
        {"multi_modal_data": {"audio": SAMPLES}, "prompt_token_ids": [10**30]},
        {Hostile(): 1},
    ],
)
def test_whatever_a_prompt_raises_is_its_own_error(whisper: InputProcessor, prompt: Any) -> None:
    with pytest.raises((PromptError, AudioError)):
        whisper.prepare(prompt, SamplingParams())


def test_a_list_in_a_prompt_is_sound(whisper: InputProcessor) -> None:
    prompt = {"multi_modal_data": {"audio": SAMPLES.tolist()}}
    prepared = whisper.prepare(prompt, SamplingParams())
    np.testing.assert_allclose(prepared.media.payload, SAMPLES, atol=1e-7)
