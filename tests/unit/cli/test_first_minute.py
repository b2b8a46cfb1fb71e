"""What a user meets first: help, mistakes and Ctrl-C, without an engine.

Speed is tested by the modules imported, which does not depend on the machine's load.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import forked_commands
import pytest

import antiphon
from antiphon.cli.flags import ENGINE, SAMPLING

HEAVY = ("av", "huggingface_hub", "numba", "numpy", "ray", "tokenizers", "torch", "transformers")

REPORTING = f"""
import atexit, sys
from antiphon.cli import main
def report():
    print("imported:", [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
atexit.register(report)
main()
"""


def light(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command, and fails if it imported anything that takes long."""
    done = forked_commands.run(REPORTING, *arguments)
    assert "imported: []" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["-h"],
        ["transcribe", "--help"],
        ["generate", "--help"],
        ["info", "--help"],
        ["batch", "--help"],
        ["bench", "--help"],
        ["bench", "attention", "--help"],
        ["bench", "steps", "--help"],
        ["bench", "throughput", "--help"],
        ["bench", "latency", "--help"],
    ],
    ids=" ".join,
)
def test_help(arguments: list[str]) -> None:
    done = light(*arguments)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: antiphon")
    assert "list[" not in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines())


def test_without_arguments_it_is_help_and_a_usage_error() -> None:
    done = light()
    assert done.returncode == 2
    assert "Usage: antiphon" in done.stdout + done.stderr


def test_version() -> None:
    done = light("--version")
    assert done.stdout == f"antiphon {antiphon.__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+", antiphon.__version__)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transcribe", "x.wav"], "Missing option '--model'"),
        (["transcribe", "-m", "M"], "Missing argument 'FILES'"),
        (
            ["transcribe", "x.wav", "-m", "M", "--chunk-seconds", "soon"],
            "--chunk-seconds': Input should be a valid number",
        ),
        (["transcribe", "x.wav", "-m", "M", "--output-dri", "x"], "--output-dir"),
        (["transcribe", "x.wav", "-m", "M", "--dtype", "float61"], "float16"),
        (
            ["generate", "x", "-m", "M", "--max-tokens", "many"],
            "--max-tokens': Input should be a valid integer",
        ),
        (["serve"], "give a model: antiphon serve MODEL"),
        (["call.mp3"], "antiphon transcribe call.mp3 --model"),
        (["transcrib", "call.mp3"], "Did you mean 'transcribe'"),
        (["translate"], "--task translate"),
        (["generate", "x", "-m", "M", "--language", "de"], "has --target-language"),
        (["serve", "M", "--seed", "1"], "each request has its own"),
        (["serve", "M", "--beam-size", "5"], "each request has its own"),
    ],
)
def test_usage_errors(arguments: list[str], message: str) -> None:
    done = light(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transcribe", "-", "-m", "M", "-f", "pdf"], "unknown output format 'pdf'"),
        (
            ["transcribe", "-", "-m", "M", "-f", "srt,vtt"],
            "several output formats need --output-dir",
        ),
        (["transcribe", "-", "-m", "M", "--skip-existing"], "--skip-existing needs --output-dir"),
        (["transcribe", "-", "-m", "M", "--json", "-f", "srt"], "exclude each other"),
        (["transcribe", "-", "-m", "M", "--timeout", "0"], "--timeout must be above 0"),
        (["transcribe", "-", "-m", "M", "--output-dir", "/proc/x"], "--output-dir /proc/x: "),
        (["transcribe", "-", "-m", "M", "-s", "temprature=1"], "Did you mean 'temperature'"),
        (["transcribe", "-", "-m", "M", "--max-num-seqs", "0"], "max_num_seqs must be"),
        (["generate", "x", "-m", "M", "--top-p", "2"], "top_p must be"),
        (["generate", "x", "-m", "M", "-o", "oops"], "write NAME=VALUE"),
        (["generate", "x", "-m", "M", "-o", "max_num_seq=1"], "Did you mean 'max_num_seqs'"),
        (
            ["generate", "x", "-m", "M", "--max-num-seqs", "2", "-o", "max_num_seqs=2"],
            "max_num_seqs is given twice",
        ),
        (["generate", "x", "-m", "/no/such"], "no such folder: /no/such"),
    ],
)
def test_mistakes_that_need_no_engine(arguments: list[str], message: str) -> None:
    done = light(*arguments)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("antiphon:")]
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transcribe", "/no/such.wav", "-m", "M"], "/no/such.wav: no such file"),
        (
            ["transcribe", "https://example.org/a.mp3", "-m", "M"],
            "URLs are not read: download it first",
        ),
        (["transcribe", "*.no-such", "-m", "M"], "*.no-such: no file matches this pattern"),
        (["transcribe", "@no-list.txt", "-m", "M"], "@no-list.txt: cannot read the list"),
    ],
)
def test_recordings_that_are_not_there(arguments: list[str], message: str) -> None:
    """No wrong usage: they fail as they do beside others, which are served."""
    done = light(*arguments)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("antiphon:")]
    assert message in line


def test_underscores_in_flags(tmp_path: Path) -> None:
    """openai/whisper writes --output_dir."""
    arguments = ["/no/such.wav", "-m", "M", "--output_dir", str(tmp_path), "--output_format", "srt"]
    done = light("transcribe", *arguments, "--encoder_attention_backend=torch_sdpa")
    assert "/no/such.wav: no such file" in done.stderr
    assert done.returncode == 1


def test_option_help_lists_every_option() -> None:
    for flag, group in (("-o", ENGINE), ("-s", SAMPLING)):
        done = light("generate", flag, "help")
        assert done.returncode == 0
        assert re.findall(r"^(\w+)", done.stdout, re.M) == list(group.types)
    assert "(default 64)" in ENGINE.table()


def test_every_option_has_a_meaning() -> None:
    assert all(ENGINE.meanings.values())
    assert set(SAMPLING.meanings) == set(SAMPLING.types)


def test_the_same_flags_on_every_command_that_starts_an_engine() -> None:
    def flags(command: str) -> set[str]:
        return set(re.findall(r"--[\w-]+", light(*command.split(), "--help").stdout))

    wanted = {
        "--model",
        *(f"--{name.replace('_', '-')}" for name in ENGINE.listed),
        "--no-ray",
        "--mm-encoder-attn-backend",
    }
    for command in (
        "transcribe",
        "generate",
        "info",
        "bench steps",
        "bench throughput",
        "bench latency",
    ):
        assert wanted <= flags(command), command
    assert "--json" not in flags("bench latency")  # there it would be a path


def test_completion() -> None:
    """The shell is searched among the command's ancestors; under make none of them completes."""
    command = shlex.join([sys.executable, "-c", REPORTING, "--show-completion"])
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit $?"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert "imported: []" in done.stderr
    assert "_ANTIPHON_COMPLETE" in done.stdout


def test_importing_the_package_is_light_and_whole() -> None:
    code = (
        "import sys, antiphon; dir(antiphon); "
        f"assert not [name for name in {HEAVY!r} if name in sys.modules]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
    assert set(antiphon.__all__) <= set(dir(antiphon))
    for name in antiphon.__all__:
        assert getattr(antiphon, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Motor'"):
        antiphon.Motor  # noqa: B018


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    command = [sys.executable, "-m", "antiphon", "transcribe", name, "-m", "M"]
    done = subprocess.run(command, capture_output=True, timeout=240)
    assert done.returncode == 1
    assert b"no such file" in done.stderr
    assert b"Traceback" not in done.stderr
