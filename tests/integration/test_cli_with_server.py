"""`--server URL`: commands whose work a running server does, without what engines need."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from blocked_imports import blocking
from http_server import Running, running_server
from paths import RECORDINGS
from typer.testing import CliRunner

from antiphon.cli.app import app
from antiphon.cli.exit_codes import exit_code
from antiphon.config.errors import AntiphonError

LIGHT = f"""
{blocking("torch", "ray", "transformers", "av", "numba", "fastapi")}
from antiphon.cli import main
main()
"""


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str


def antiphon(*arguments: str, stdin: str = "") -> Done:
    """In this process: importing what a command needs takes a second."""
    result = CliRunner().invoke(app, arguments, input=stdin)
    if isinstance(result.exception, AntiphonError):
        return Done(exit_code(result.exception), result.stdout, str(result.exception))
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return Done(result.exit_code, result.stdout, result.stderr)


def antiphon_without_engines(*arguments: str) -> Done:
    command = [sys.executable, "-c", LIGHT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def test_transcribe(server: Running, tmp_path: Path) -> None:
    files = [str(RECORDINGS / name) for name in ("call.wav", "wecker.wav")]
    broken = tmp_path / "broken.wav"
    broken.write_text("no sound")
    arguments = ("transcribe", *files, str(broken), "--server", server.url, "--json")
    done = antiphon_without_engines(*arguments)
    assert done.code == 1
    results = {Path(line["file"]).name: line for line in map(json.loads, done.stdout.splitlines())}
    assert results.keys() == {"call.wav", "wecker.wav"}
    german = results["wecker.wav"]
    assert (german["text"], german["language"]) == ("wecke mich morgen um vier", "de")
    assert german["segments"][0]["tokens"]
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("antiphon:"))
    assert f"{broken}: " in error
    assert "not readable as audio" in error


def test_transcribe_into_files(server: Running, tmp_path: Path) -> None:
    done = antiphon(
        "transcribe", str(RECORDINGS / "wecker.wav"), "--server", server.url, "-m", "hears",
        "--task", "translate", "--output-dir", str(tmp_path), "-f", "txt,srt",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert (tmp_path / "wecker.txt").read_text() == "wake me up tomorrow at four\n"
    assert re.match(r"1\n00:00:00,[3-6]\d0 --> 00:00:0", (tmp_path / "wecker.srt").read_text())


def test_words_of_a_transcription(server: Running) -> None:
    done = antiphon(
        "transcribe", str(RECORDINGS / "wecker.wav"), "--server", server.url, "-m", "hears",
        "--word-timestamps", "--json",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    (result,) = map(json.loads, done.stdout.splitlines())
    words = [word for segment in result["segments"] for word in segment["words"]]
    assert "".join(word["word"] for word in words).strip() == result["text"]
    assert all(0 <= word["probability"] <= 1 for word in words)


def test_generate(server: Running) -> None:
    done = antiphon(
        "generate", "--server", server.url, "-m", "numbers", "--max-tokens", "20",
        stdin="in words: 42\nin words: 7\nin words: 8\n",
    )  # fmt: skip
    assert (done.code, done.stdout) == (0, "forty two\nseven\neight\n")
    done = antiphon("generate", "in words: 9", "--server", server.url, "-m", "numbers", "--json")
    assert json.loads(done.stdout) == {
        "prompt": "in words: 9",
        "outputs": [{"index": 0, "text": "nine", "finish_reason": "stop", "logprobs": None}],
    }


def test_log_probabilities(server: Running) -> None:
    done = antiphon(
        "generate", "in words: 9", "--server", server.url, "-m", "numbers", "--json",
        "--logprobs", "2",
    )  # fmt: skip
    (output,) = json.loads(done.stdout)["outputs"]
    given = output["logprobs"]
    assert "nine" in "".join(given["tokens"])
    assert len(given["token_logprobs"]) == len(given["tokens"])
    assert all(value <= 0 for value in given["token_logprobs"])
    assert all(len(row) >= 2 for row in given["top_logprobs"])


def test_a_key_that_no_header_holds(server: Running) -> None:
    done = antiphon("generate", "in words: 9", "--server", server.url, "--api-key", "schlüssel")
    assert (done.code, "printable ASCII" in done.stderr) == (2, True)
    assert "schl" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-m", "other"), 2, "has no model 'other': hears, numbers, sees"),
        (("-m", "numbers", "--dtype", "float32"), 2, "dtype: with --server the engine is"),
        (("-m", "hears"), 1, "hears listens"),
    ],
)
def test_errors(server: Running, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = antiphon("generate", "in words: 1", "--server", server.url, *arguments)
    assert done.code == code
    assert message in done.stderr


def test_keys(t5_folder: Path) -> None:
    models = {"numbers": str(t5_folder)}
    with running_server(models, api_keys=("secret",)) as server:
        prompt = ("generate", "in words: 1", "--server", server.url)
        assert antiphon(*prompt, "--api-key", "secret").stdout == "one\n"
        done = antiphon(*prompt)
        assert (done.code, "no valid API key" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--api-key", "secret", "-m", "x"), "--api-key is for a server: give --server"),
        ((), "Missing option '--model' (or --server"),
    ],
)
def test_flags_without_a_server(arguments: tuple[str, ...], message: str) -> None:
    done = antiphon("generate", "in words: 1", *arguments)
    assert done.code == 2
    assert message in done.stderr
