"""The same mistake ends with the same exit code, wherever on the command line it stands."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import pytest
from paths import RECORDINGS

from antiphon.cli.app import run
from antiphon.cli.exit_codes import EngineFailed, engine_errors, exit_code
from antiphon.config import errors
from antiphon.config.errors import AntiphonError, CheckpointError, ConfigurationError

CALL = str(RECORDINGS / "call.wav")

TRANSCRIBE = ["transcribe", CALL, "-m", "WHISPER"]
GENERATE = ["generate", "in words: 1", "-m", "T5"]
WRONG = [
    # what typer refuses, and the same as a pair
    [*TRANSCRIBE, "--device", "tpu"],
    [*TRANSCRIBE, "-o", "device=tpu"],
    [*TRANSCRIBE, "--device", "cuda:1"],
    [*TRANSCRIBE, "--dtype", "float61"],
    [*TRANSCRIBE, "-o", "dtype=float61"],
    [*TRANSCRIBE, "--max-num-seqs", "many"],
    [*TRANSCRIBE, "--max-num-seqs", "0"],
    [*TRANSCRIBE, "-o", "max_num_seqs=many"],
    [*TRANSCRIBE, "-o", "max_num_seq=4"],
    [*TRANSCRIBE, "--max-num-seq", "4"],
    [*TRANSCRIBE, "-o", "device=cpu", "--device", "cpu"],
    [*TRANSCRIBE, "-o", "beam_size=5"],
    [*TRANSCRIBE, "--beam-size", "0"],
    [*TRANSCRIBE, "--encoder-attention-backend", "flush"],
    [*TRANSCRIBE, "-o", "kv_page_size=-1"],
    [*TRANSCRIBE, "--placement", "apart"],
    # sampling
    [*TRANSCRIBE, "--temperature", "hot"],
    [*TRANSCRIBE, "--temperature", "-1"],
    [*TRANSCRIBE, "-s", "temperature=-1"],
    [*TRANSCRIBE, "-s", "temprature=1"],
    [*TRANSCRIBE, "-s", "n=2"],
    [*TRANSCRIBE, "--max-tokens", "100000"],
    # output
    [*TRANSCRIBE, "-f", "srtt"],
    [*TRANSCRIBE, "-f", "srt,vtt"],
    [*TRANSCRIBE, "-f", ""],
    [*TRANSCRIBE, "--no-ray", "--decoder-replicas", "2"],
    [*TRANSCRIBE, "--no-ray", "--address", "local"],
    [*TRANSCRIBE, "--no-ray", "--placement", "disaggregated"],
    [*TRANSCRIBE, "--skip-existing"],
    [*TRANSCRIBE, "--json", "-f", "srt"],
    [*TRANSCRIBE, "--output-dir", "/proc/x"],
    [*TRANSCRIBE, CALL.replace("call", "wecker"), "-f", "srt"],
    # what the model must know
    [*TRANSCRIBE, "--language", "klingon"],
    [*TRANSCRIBE, "--language", "fr"],
    [*TRANSCRIBE, "--language", ""],
    [*TRANSCRIBE, "--task", "summarize"],
    [*TRANSCRIBE, "--chunk-seconds", "90"],
    [*TRANSCRIBE, "--chunk-seconds", "soon"],
    [*TRANSCRIBE, "--timeout", "0"],
    [*TRANSCRIBE, "--timeout", "-1"],
    [*TRANSCRIBE, "--max-model-len", "99999"],
    ["transcribe", CALL, "-m", "T5"],
    ["transcribe", CALL, "-m", "/no/such"],
    ["transcribe", CALL],
    ["transcribe", "-m", "WHISPER"],
    [*GENERATE, "--target-language", "fr"],
    [*GENERATE, "--top-p", "2"],
    [*GENERATE, "-s", "top_p=2"],
    [*GENERATE, "--max-tokens", "0"],
    [*GENERATE, "-o", "address=127.0.0.1:1"],
    ["generate", "x", "-m", "WHISPER"],
    ["generate", "x", "-m", "/no/such"],
    ["info", "-m", "/no/such"],
    ["info", "-o", "device=tpu", "-m", "T5"],
    ["bench", "latency", "--concurrency", "few", "-m", "T5", "--no-ray"],
    ["bench", "latency", "--concurrency", "0", "-m", "T5", "--no-ray"],
    ["bench", "latency", "--concurrency", "", "-m", "T5", "--no-ray"],
    ["bench", "latency", "--requests", "0", "-m", "T5", "--no-ray"],
    ["bench", "throughput", "--output-tokens", "0", "-m", "T5", "--no-ray"],
    ["bench", "throughput", "--peer-batches", "0", "-m", "T5", "--no-ray"],
    ["transcrib", CALL],
    [],
]  # fmt: skip


def end(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["antiphon", *arguments])
    with pytest.raises(SystemExit) as ended:
        run()
    return ended.value.code


@pytest.mark.parametrize(
    "arguments", WRONG, ids=lambda words: " ".join(word for word in words if word != CALL)
)
def test_wrong_usage_is_2(
    arguments: list[str],
    whisper_folder: Path,
    t5_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = {"WHISPER": str(whisper_folder), "T5": str(t5_folder)}
    monkeypatch.setattr("antiphon.engine.sync_engine.Engine", NeverStarts)
    assert end([folders.get(word, word) for word in arguments], monkeypatch) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err or arguments == []  # which prints its help


class NeverStarts:
    def __init__(self, model: str, **options: Any) -> None:
        raise AssertionError("an engine was about to start")


class Fails:
    """An engine that ends as one does whose GPU is taken, or whose weights are broken."""

    error: AntiphonError

    def __init__(self, model: str, **options: Any) -> None:
        raise self.error

    def __enter__(self) -> Self:
        return self


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("no GPU is free"),
        CheckpointError("a tensor lacks"),
        errors.EngineDeadError("gone"),
    ],
)
@pytest.mark.parametrize("arguments", [TRANSCRIBE, GENERATE], ids=["transcribe", "generate"])
def test_an_engine_that_fails_is_1(
    error: AntiphonError,
    arguments: list[str],
    whisper_folder: Path,
    t5_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = {"WHISPER": str(whisper_folder), "T5": str(t5_folder)}
    monkeypatch.setattr(Fails, "error", error, raising=False)
    monkeypatch.setattr("antiphon.engine.sync_engine.Engine", Fails)
    assert end([folders.get(word, word) for word in arguments], monkeypatch) == 1
    assert f"antiphon: {error}" in capsys.readouterr().err.splitlines()


def test_every_error_has_a_code() -> None:
    def all_of(kind: type[AntiphonError]) -> list[type[AntiphonError]]:
        return [kind, *(subclass for child in kind.__subclasses__() for subclass in all_of(child))]

    codes = {kind.__name__: exit_code(kind("")) for kind in all_of(AntiphonError)}
    usage = {
        "ConfigurationError",
        "AttentionBackendError",
        "CheckpointError",
        "UnsupportedModelError",
        "InputError",
    }
    usage |= {"PromptError", "AudioError", "ImageError", "VideoError"}
    usage |= {"SamplingError", "ManifestError"}
    assert {name for name, code in codes.items() if code == 2} == usage
    assert set(codes.values()) == {1, 2}
    with pytest.raises(EngineFailed, match="full"), engine_errors():
        raise ConfigurationError("full")


def test_as_a_process(whisper_folder: Path) -> None:
    for arguments, code in (
        (["-o", "device=tpu"], 2),
        (["--device", "tpu"], 2),
        (["/no/such.wav", "--language", "xx"], 2),
    ):
        command = [
            sys.executable,
            "-m",
            "antiphon",
            "transcribe",
            CALL,
            "-m",
            str(whisper_folder),
            *arguments,
        ]
        assert subprocess.run(command, capture_output=True, timeout=240).returncode == code
