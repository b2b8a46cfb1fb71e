"""The commands and examples of docs/serving.md and docs/client.md, run as they stand there."""

import contextlib
import io
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_pages import blocks, page
from http_server import Running, running_server
from paths import RECORDINGS, ROOT, T5, WHISPER
from typer.testing import CliRunner

from antiphon.cli.app import app
from antiphon.serve.command import Plan
from antiphon.serve.settings import Limits

SERVING = page("docs/serving.md")
CLIENT = page("docs/client.md")
ADDRESS = "http://127.0.0.1:8000"  # in the pages
EXAMPLES = blocks("docs/client.md")
CURLS = re.findall(r"^curl .*$", SERVING, re.M)
BEGUN = re.compile(r"1\n00:00:00,[3-6]\d0 --> ")  # the speech of call.wav, behind silence
COMMANDS = re.findall(r"^ {4}antiphon (serve.*)$", SERVING, re.M)


@pytest.fixture(scope="module")
def served() -> Any:
    """The models by the names of the pages."""
    with running_server({"asr": str(WHISPER), "text": str(T5)}) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the files that the pages name; the working directory."""
    shutil.copy(RECORDINGS / "call.wav", tmp_path)
    (tmp_path / "keys.txt").write_text("secret\n")
    (config,) = blocks("docs/serving.md", "yaml")
    (tmp_path / "serve.yaml").write_text(config)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_examples_in_python(served: Running, folder: Path) -> None:
    assert len(EXAMPLES) == 6
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        for example in EXAMPLES:
            exec(compile(example.replace(ADDRESS, served.url), "docs/client.md", "exec"), {})
    text = output.getvalue()
    assert re.match(r"call seven nine zero english\n0\.[3-6]", text)
    for part in (
        "forty two\nseven\n['asr', 'text']\n",
        "four thousand seven hundred elevencall seven nine zero",
        "\n99 ninety nine\n",
        "['seven', 'eight', 'nine']\n",
    ):
        assert part in text
    assert text.endswith("call seven nine zero\n")
    assert len((folder / "results.jsonl").read_text().splitlines()) == 100


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl is installed")
def test_requests_of_curl(served: Running, folder: Path) -> None:
    assert len(CURLS) == 5
    answers = []
    for command in CURLS:
        options = {"shell": True, "capture_output": True, "text": True, "check": True}
        done = subprocess.run(command.replace(ADDRESS, served.url), **options)  # type: ignore[call-overload]
        answers.append(done.stdout)
    whole, srt, stream, completion, models = answers
    assert '"text":"call seven nine zero"' in whole
    assert BEGUN.match(srt)
    assert 'data: {"type": "transcript.text.done", "text": "call seven nine zero"' in stream
    assert '"forty two"' in completion
    assert '"id":"asr"' in models


def test_commands_with_a_server(served: Running, folder: Path) -> None:
    commands = re.findall(r"^ {4}antiphon (.*)$", CLIENT, re.M)
    outputs = []
    for command in commands:
        result = CliRunner().invoke(app, command.replace(ADDRESS, served.url))
        assert result.exit_code == 0
        outputs.append(result.stdout)
    assert BEGUN.match(outputs[0])
    assert outputs[1] == "forty two\n"


def test_commands_that_serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the serving itself, which other tests do."""
    plans: list[Plan] = []
    monkeypatch.setattr("antiphon.serve.command.run", plans.append)
    for command in COMMANDS:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, (command, result.output)
    by_command = dict(zip(COMMANDS, plans, strict=True))
    assert len(by_command) == 5
    quick, replicas, several, keyed, configured = plans
    assert quick.over_ray is False
    assert (replicas.replicas, replicas.engine["decoder_replicas"]) == (2, 4)
    assert list(several.models) == ["asr", "nllb"]
    assert keyed.settings.api_keys == ("secret",)
    assert configured.settings.port == 9000
    assert configured.settings.host == "0.0.0.0"
    assert configured.settings.limits.upload_mib == 100
    assert configured.engine["max_num_seqs"] == 64
    file = yaml.safe_load((folder / "serve.yaml").read_text())
    assert configured.models == file["models"]


def test_the_table_of_limits() -> None:
    rows = dict(re.findall(r"^\| `--([\w-]+)` \| ([\d.]+) \|", SERVING, re.M))
    defaults = {field.name.replace("_", "-"): field.default for field in fields(Limits)}
    assert {name: float(value) for name, value in rows.items()} == defaults
