"""The commands of docs/metrics.md and docs/quantization.md, as they stand there. Loads have fewer
requests, published models are the shipped ones, and llm-compressor's part is written beforehand."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from doc_pages import page
from http_server import Running, running_server
from paths import RECORDINGS, T5, WHISPER
from quantized_checkpoints import METHODS, publish
from typer.testing import CliRunner

from antiphon.cli.app import app
from antiphon.jobs.quantizing import Quantization
from antiphon.serve.command import Plan

METRICS = page("docs/metrics.md")
QUANTIZATION = page("docs/quantization.md")
BENCHES = re.findall(r"^ {4}antiphon (bench serve .*)$", METRICS, re.M)
SERVES = re.findall(r"^ {4}antiphon (serve .*)$", METRICS, re.M)
REQUESTS = 6


@pytest.fixture(scope="module")
def speech() -> Any:
    with running_server({"asr": str(WHISPER)}) as running:
        yield running


@pytest.fixture(scope="module")
def text() -> Any:
    with running_server({"text": str(T5)}) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the manifest that the pages name; the working directory."""
    shutil.copy(RECORDINGS / "call.wav", tmp_path)
    line = json.dumps({"audio": "call.wav", "text": "call seven nine zero"})
    (tmp_path / "recordings.jsonl").write_text(f"{line}\n" * REQUESTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str) -> str:
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, (command, result.output)
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", BENCHES)
def test_loads_on_a_server(command: str, folder: Path, request: Any) -> None:
    server: Running = request.getfixturevalue("text" if "completions" in command else "speech")
    fewer = command.replace("1,32,128", "1,4").replace("2:20", "20:40")
    shown = run(f"{fewer} --server {server.url} --requests {REQUESTS}")
    row = re.search(r"^ *completed .*$", shown, re.M)
    assert row is not None
    assert set(row.group().split()[1:]) == {str(REQUESTS)}
    if "--plot" in command:
        assert (folder / "load.png").stat().st_size > 10_000
    if "--output figures.json" in command:
        (figures,) = json.loads((folder / "figures.json").read_text())["rows"]
        assert figures["word_error_rate"] == 0


def test_commands_that_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the serving itself, which other tests do."""
    plans: list[Plan] = []
    monkeypatch.setattr("antiphon.serve.command.run", plans.append)
    for command in SERVES:
        run(command)
    traced, logged = (plan.settings for plan in plans)
    assert traced.otlp_traces_endpoint == "http://collector:4318/v1/traces"
    assert logged.log_format == "json"


def test_commands_that_quantise(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = re.findall(r"^ {4}antiphon ([^#\n]*)", QUANTIZATION, re.M)
    assert [command.split()[0] for command in commands] == ["quantize", "quantize", "info"]
    wanted: list[tuple[Quantization, Path]] = []

    def write(model: Any, quantization: Quantization, output: Path) -> None:
        wanted.append((quantization, output))

    monkeypatch.setattr("antiphon.jobs.quantizing.quantize", write)
    shipped = {"openai/whisper-small": str(WHISPER), "google/flan-t5-xl": str(T5)}
    for command in commands[:2]:
        for name, path in shipped.items():
            command = command.replace(name, path)
        assert "antiphon info --model" in run(command)
    assert wanted == [
        (Quantization("w8a8"), Path("whisper-small-w8a8")),
        (Quantization("w4a16", "texts.jsonl"), Path("t5-w4a16")),
    ]
    model = tiny_models.make("t5_gated_untied", folder / "plain")
    publish(model, folder / "plain", folder / "t5-w4a16", METHODS["w4a16"])
    assert "int4, groups of 8" in run(commands[2])
