"""The commands and examples of README.md, docs/generation.md, docs/transcription.md, docs/jobs.md,
docs/parallelism.md and docs/attention.md, and the copying of docs/metrics.md, as they stand there.

Published models are shipped or tiny ones, recordings are shipped ones, engines are in this process.
Elsewhere: `ray job submit` (test_batch_job.py) and Ray Data's actors (test_ray_data.py), whose
example gets as far here as no actor is needed; `make` and .ci/run; flags and files that pages name
within a sentence (tests/test_docs.py). What needs a GPU runs on a CPU with small sizes.
"""

import gzip
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tiny_translators
from first_layers import first_layers
from paths import EXAMPLES, RECORDINGS, ROOT, T5, WHISPER
from tiny_moonshine import make_moonshine
from typer.testing import CliRunner

from antiphon.cli.app import app
from antiphon.engine.sync_engine import Engine
from antiphon.jobs.entries import Defaults, entry_of

PUBLISHED = {
    "turbo": WHISPER, "tiny": WHISPER, "small.en": WHISPER, "large-v3": WHISPER,
    "openai/whisper-tiny": WHISPER, "openai/whisper-base": WHISPER,
    "openai/whisper-small": WHISPER, "openai/whisper-large-v3": WHISPER,
    "google/flan-t5-base": T5, "facebook/bart-large-cnn": T5, "MODEL": T5,
    "Qwen/Qwen2.5-VL-7B-Instruct": EXAMPLES / "qwen_shapes" / "model",
}  # fmt: skip
MADE: dict[str, Callable[[Path], Any]] = {  # small ones with random weights
    "facebook/nllb-200-distilled-600M": lambda folder: tiny_translators.make("nllb", folder),
    "UsefulSensors/moonshine-base": make_moonshine,
    "distil-whisper/distil-large-v3": lambda folder: first_layers(WHISPER, folder, 1),
}
GERMAN = "wecke mich morgen um vier"


def page(name: str) -> str:
    return (ROOT / name).read_text()


def commands(name: str) -> list[str]:
    """What stands behind `antiphon` in the lines that users copy."""
    return re.findall(r"^ {4}(?:ffmpeg \.\.\. \| )?antiphon (.*)$", page(name), re.M)


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page(name), re.S)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the files that the pages name; the working directory."""
    (tmp_path / "calls").mkdir()
    shutil.copy(RECORDINGS / "wecker.wav", tmp_path / "call.mp3")
    shutil.copy(RECORDINGS / "wecker.wav", tmp_path / "talk.mp3")
    shutil.copy(RECORDINGS / "wecker.wav", tmp_path / "calls" / "first.wav")
    (tmp_path / "lines.txt").write_text("the red house\n")
    (tmp_path / "calls.jsonl").write_text('{"audio": "call.mp3", "id": "0001"}\n')
    (tmp_path / "prompts.jsonl").write_text('{"text": "in words: 42"}\n')
    (tmp_path / "examples").symlink_to(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def model_of(name: str, folder: Path) -> str:
    """Ours, for a published one."""
    if name not in MADE:
        return str(PUBLISHED.get(name, name))
    made = folder / name.split("/")[1]
    if not made.exists():
        made.mkdir()
        MADE[name](made)
    return str(made)


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


# ---------------------------------------------------------------------- commands


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


# ---------------------------------------------------------------------- examples


class Kept(Engine):
    """Stays open behind its block, for the blocks below it."""

    def __exit__(self, *_: object) -> None: ...


class Kernel:
    """Runs the blocks of a page in one namespace, as its reader would."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.namespace = folder, dict[str, Any]()
        self.engines: dict[str, Kept] = {}

    def engine(self, model: str, **options: Any) -> Kept:
        if "model" in (drafts := options.get("speculative_config", {})):
            drafts["model"] = model_of(drafts["model"], self.folder)
        found = model_of(model, self.folder)
        key = json.dumps([found, options])
        if key not in self.engines:
            self.engines[key] = Kept(found, ray=False, **options)
        return self.engines[key]

    def run(self, name: str, number: int) -> None:
        exec(compile(blocks(name)[number], f"{name} {number}", "exec"), self.namespace)


@pytest.fixture
def kernel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    kernel = Kernel(folder)
    monkeypatch.setattr("antiphon.Engine", kernel.engine, raising=False)
    yield kernel
    for engine in kernel.engines.values():
        engine.close()


def test_examples_of_the_readme(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(blocks("README.md")) == 2
    kernel.run("README.md", 0)
    assert capsys.readouterr().out.strip() == GERMAN
    kernel.run("README.md", 1)
    assert capsys.readouterr().out.strip()


def test_examples_of_texts(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    """All but the one with a picture."""
    assert len(blocks("docs/generation.md")) == 4
    kernel.run("docs/generation.md", 0)
    assert len(capsys.readouterr().out.splitlines()) == 100
    kernel.namespace["article"] = "in words: 407"
    kernel.run("docs/generation.md", 2)
    assert re.fullmatch(r"four hundred seven -?\d.*\n", capsys.readouterr().out)
    kernel.run("docs/generation.md", 3)
    (output,) = kernel.namespace["engine"].generate(["in words: 42"])
    assert output.outputs[0].text == "forty two"


@pytest.mark.slow
def test_the_example_with_a_picture(kernel: Kernel) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), "red").save(kernel.folder / "sign.jpg")
    kernel.namespace["Engine"] = kernel.engine
    kernel.run("docs/generation.md", 1)
    assert kernel.namespace["answer"].outputs[0].text


def test_examples_of_transcriptions(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    """The first, and the times of words."""
    assert len(blocks("docs/transcription.md")) == 6
    kernel.run("docs/transcription.md", 0)
    text, *segments = capsys.readouterr().out.splitlines()
    assert text.startswith(f"{GERMAN} de ")
    assert GERMAN in segments[0]
    kernel.run("docs/transcription.md", 1)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[2] for row in rows] == GERMAN.split()


@pytest.mark.slow
def test_examples_with_other_models(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    """A draft model, and Moonshine with random weights."""
    kernel.namespace["Engine"] = kernel.engine
    kernel.run("docs/transcription.md", 2)
    assert kernel.namespace["engine"].transcribe("call.mp3").text == GERMAN
    kernel.run("docs/transcription.md", 4)
    assert capsys.readouterr().out


@pytest.mark.slow
def test_the_example_with_a_microphone(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    from antiphon.inputs.audio.forms import load_audio

    def microphone() -> Iterator[np.ndarray]:
        sound = load_audio(kernel.folder / "call.mp3", 48_000)
        yield from np.array_split(sound, 4)

    shown: list[str] = []
    kernel.namespace.update(Engine=kernel.engine, microphone=microphone, show=shown.append)
    kernel.run("docs/transcription.md", 3)
    assert capsys.readouterr().out.strip() == GERMAN
    assert shown


@pytest.mark.slow
def test_the_example_of_faster_whisper(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a CPU, which has no float16: `int8` in its place."""
    block = blocks("docs/transcription.md")[5]
    block = block.replace('"large-v3"', repr(str(WHISPER))).replace("int8_float16", "int8")
    namespace: dict[str, Any] = {}
    exec(compile(block, "docs/transcription.md", "exec"), namespace)
    assert GERMAN in capsys.readouterr().out
    namespace["model"].close()


@pytest.mark.slow
def test_the_example_of_ray_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the data set is read: tests/integration/test_ray_data.py goes on from there."""
    (block,) = blocks("docs/jobs.md")
    before, found, _ = block.partition("dataset = processor(")
    assert found
    namespace: dict[str, Any] = {}
    exec(
        compile(before.replace("openai/whisper-small", str(WHISPER)), "jobs.md", "exec"), namespace
    )
    assert callable(namespace["processor"])
    assert namespace["config"].concurrency == 4
