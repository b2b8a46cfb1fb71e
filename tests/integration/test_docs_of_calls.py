"""The commands of README.md, docs/generation.md, docs/transcription.md, docs/jobs.md,
docs/parallelism.md and docs/attention.md, and the copying of docs/metrics.md, as they stand there.

Published models are shipped or tiny ones, recordings are shipped ones, engines are in this process.
Elsewhere: `ray job submit` (test_batch_job.py), examples in Python (test_docs_of_examples.py),
`make` and .ci/run; flags and files that pages name within a sentence (tests/test_docs.py). What
needs a GPU runs on a CPU with small sizes.
"""

import gzip
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import fsspec
import pytest
from doc_pages import GERMAN, model_of, page, prepare
from paths import ROOT
from typer.testing import CliRunner

from antiphon.cli.app import app
from antiphon.jobs.entries import Defaults, entry_of


def commands(name: str) -> list[str]:
    """What stands behind `antiphon` in the lines that users copy."""
    return re.findall(r"^ {4}(?:ffmpeg \.\.\. \| )?antiphon (.*)$", page(name), re.M)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the files that the pages name; the working directory."""
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str, folder: Path, *more: str, stdin: bytes = b"") -> str:
    command, _, source = command.partition(" < ")
    if source:
        stdin = (folder / source).read_bytes()
    command = re.sub(
        r"(?<=-m )\S+|(?<=--model )\S+", lambda found: model_of(found[0], folder), command
    )
    result = CliRunner().invoke(app, " ".join([command, *more]), input=stdin)
    assert result.exit_code == 0, (command, result.output, result.exception)
    return result.stdout


def test_readme(folder: Path) -> None:
    calls, numbers = commands("README.md")
    assert not run(calls, folder, "--no-ray", "-q")
    assert (folder / "texts" / "first.srt").read_text().startswith("1\n00:00:0")
    assert json.loads((folder / "texts" / "first.json").read_text())["text"].strip() == GERMAN
    assert run(numbers, folder, "--no-ray", "-q") == "four hundred seven\n"


def test_transcription(folder: Path) -> None:
    one, many, piped, of_whisper = commands("docs/transcription.md")
    assert run(one, folder, "--no-ray", "-q").strip() == GERMAN
    assert not run(many, folder, "--no-ray", "-q")
    assert {path.suffix for path in (folder / "texts").iterdir()} == {".srt", ".json"}
    sound = (folder / "call.mp3").read_bytes()
    assert json.loads(run(piped, folder, "--no-ray", "-q", stdin=sound))["text"].strip() == GERMAN
    run(of_whisper, folder, "--no-ray", "-q")
    assert GERMAN in (folder / "talk.srt").read_text()


def test_generation(folder: Path) -> None:
    numbers, translation = commands("docs/generation.md")
    assert run(numbers, folder, "--no-ray", "-q") == "four hundred seven\n"
    shown = run(translation, folder, "--no-ray", "-q", "--max-tokens", "4")
    assert len(shown.splitlines()) == 1


def test_batches(folder: Path) -> None:
    """The object store is one in memory."""
    recordings, stored, prompts = commands("docs/jobs.md")
    assert "Error" not in run(recordings, folder, "--no-ray", "-q")
    (line,) = (folder / "texts" / "part-00000.jsonl").read_text().splitlines()
    assert json.loads(line)["text"].strip() == GERMAN
    with fsspec.open("memory://bucket/m.jsonl.gz", "wb") as file:
        entry = {"audio": str(folder / "call.mp3")}
        file.write(gzip.compress(json.dumps(entry).encode() + b"\n"))
    run(stored.replace("s3://", "memory://"), folder, "--no-ray", "-q")
    names = [Path(name).name for name in fsspec.filesystem("memory").ls("/bucket/texts", False)]
    assert "part-00000.parquet" in names
    run(prompts, folder, "--no-ray", "-q")
    (line,) = (folder / "answers" / "part-00000.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == "forty two"


def test_lines_of_manifests(folder: Path) -> None:
    """Those that docs/jobs.md shows, for one kind of model each."""
    lines = re.findall(r"^ {4}(\{.*\})$", page("docs/jobs.md"), re.M)
    assert len(lines) == 3
    for line in lines:
        entry = entry_of(1, json.loads(line), Defaults("audio" in line, {}, {}))
        assert entry.audio or entry.prompt


def test_info(folder: Path) -> None:
    told = re.findall(r"`antiphon (info(?: --all)?)`", page("docs/attention.md"))
    assert told == ["info", "info --all"]
    usable, everything = (run(command, folder) for command in told)
    assert "cpu_paged" in usable
    assert len(everything) > len(usable)
    (ranks,) = re.findall(r"`antiphon (info .*) \.\.\.`", page("docs/parallelism.md"))
    assert "rank" in run(ranks, folder)


def test_the_dashboard_is_copied(folder: Path) -> None:
    (command,) = re.findall(r"^ {4}(cp .*?\.json)$", page("docs/metrics.md"), re.M | re.S)
    target = re.findall(r"\S+\.json$", command)[0]
    command = command.replace(target, "copied.json").replace("python -c", f"{sys.executable} -c")
    subprocess.run(["bash", "-ec", command], check=True, env=dict(os.environ))
    assert json.loads((folder / "copied.json").read_text())["panels"]


def test_extras_that_pages_install() -> None:
    project = tomllib.loads(page("pyproject.toml"))["project"]
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {
        extra
        for path in pages
        for extras in re.findall(r"(?:antiphon|\.)\[([\w,-]+)\]'", path.read_text())
        for extra in extras.split(",")
    }
    assert named
    assert named <= set(project["optional-dependencies"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments", "shown"),
    [
        ("antiphon.benchmarks.host_work", ["4"], "exchanged: "),
        ("antiphon.benchmarks.handoff", ["64", "16"], "microseconds"),
        ("antiphon.benchmarks.reductions", ["2", "64", "float32"], "2 ranks on cpu"),
        (
            "antiphon.benchmarks.scripts.latent_attention",
            ["--device", "cpu", "--sequences", "1", "--tokens", "32", "--models", "2x32"],
            "sequences",
        ),
    ],
)
def test_measurements(
    module: str,
    arguments: list[str],
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of docs/parallelism.md and docs/attention.md."""
    pages = page("docs/parallelism.md") + page("docs/attention.md")
    file = module.removeprefix("antiphon.").replace(".", "/") + ".py"
    assert f"python -m {module}`" in pages or f"python {file}`" in pages
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    if "scripts" in module:
        runpy.run_path(str(ROOT / file), run_name="__main__")
    else:
        __import__(module)
        sys.modules[module].main()
    assert shown in capsys.readouterr().out
