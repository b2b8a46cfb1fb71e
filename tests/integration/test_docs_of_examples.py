"""The examples in Python of README.md, docs/generation.md, docs/transcription.md, docs/jobs.md, as
they stand there, each page in one namespace. Models and files: tests/fakes/doc_pages.py.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doc_pages import GERMAN, blocks, model_of, prepare
from paths import WHISPER

from antiphon.engine.sync_engine import Engine


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the files that the pages name; the working directory."""
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
