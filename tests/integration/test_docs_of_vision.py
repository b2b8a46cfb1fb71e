"""The commands and examples of docs/vision.md, run as they stand there: with fewer pictures,
smaller shapes and without Ray."""

import contextlib
import io
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doc_pages import blocks, page
from paths import EXAMPLES, ROOT
from PIL import Image
from tiny_florence import make_florence
from typer.testing import CliRunner

from antiphon import Engine, SamplingParams
from antiphon.cli.app import app
from antiphon.examples.qwen_shapes.evaluate import HELD_OUT, held_out

PAGE = "docs/vision.md"
SHAPES = EXAMPLES / "qwen_shapes" / "model"
EXAMPLE, VIDEO, FLORENCE = blocks(PAGE)
COMMANDS = re.findall(r"^\| `((?:python|antiphon|make) [^`]*)` \|", page(PAGE), re.M)
# By the file of a command: what is added, so that it takes seconds on a CPU.
SHORTER = {
    "image_encoders.py": "--small --backends torch_sdpa",
    "image_requests.py": "--small --loads 2x56x2 --callers 1 --peer-loads 2x56x2 --no-steps",
    "image_scores.py": "--count 6 --cases 'auto;triton;auto, fp8 attention'",
    "evaluate.py": "ray=false device=cpu",
    "train.py": "--device cpu --seconds 1 --batch-size 2",
}
SHOWN = {
    "image_encoders.py": "times_transformers",
    "image_requests.py": "requests/s",
    "image_scores.py": "does not run on cpu",
    "evaluate.py": "how_many_of_color",
    "train.py": "",
}


def test_every_command_is_run_here_or_by_all_who_build() -> None:
    """`make demo` is the first step of .ci/run."""
    files = [command.split()[1].rpartition("/")[2] for command in COMMANDS]
    assert set(files) == {*SHORTER, "bench", "demo", "draw_shapes.py"}
    assert "make demo" in (ROOT / ".ci" / "run").read_text()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with what the page names."""
    for name in ("examples", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    held_out(1)[0].picture.save(tmp_path / "shapes.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_example(folder: Path) -> None:
    output = io.StringIO()
    own = EXAMPLE.replace('/model")', '/model", ray=False, device="cpu")')
    assert own != EXAMPLE
    with contextlib.redirect_stdout(output):
        exec(compile(own, PAGE, "exec"), {})
    assert output.getvalue().strip()


def test_a_prompt_with_a_video(folder: Path) -> None:
    import av  # not above: GPU machines may lack it

    with av.open("street.mp4", "w") as file:
        stream = file.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 64
        for level in range(8):
            frame = np.full((64, 64, 3), 30 * level, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    named: dict[str, Any] = {}
    exec(compile(VIDEO, PAGE, "exec"), named)
    with Engine(str(SHAPES), ray=False, device="cpu") as engine:
        (output,) = engine.generate([named["prompt"]], use_tqdm=False)
        assert engine.stats()["encodes"] == 1
    assert output.outputs[0].token_ids


def test_florences_task(folder: Path) -> None:
    make_florence(folder / "florence")
    Image.new("RGB", (60, 44), "red").save("street.jpg")
    with Engine(str(folder / "florence"), ray=False, device="cpu") as engine:
        named: dict[str, Any] = {"engine": engine, "SamplingParams": SamplingParams}
        exec(compile(FLORENCE, PAGE, "exec"), named)
    assert named["output"].outputs[0].token_ids


def test_commands_of_antiphon() -> None:
    assert "antiphon info -m MODEL" in page(PAGE)
    told = CliRunner().invoke(app, f"info -m {SHAPES} --device cpu")
    assert told.exit_code == 0
    assert "encoder attention (full): torch_sdpa" in told.output
    (bench,) = [command for command in COMMANDS if command.startswith("antiphon")]
    if not torch.cuda.is_available():
        refused = CliRunner().invoke(app, bench.removeprefix("antiphon "))
        assert refused.exit_code != 0
        assert "CUDA device" in f"{refused.output}{refused.exception}"


def test_the_drawn_sheet() -> None:
    """docs/draw_shapes.py would write the file that is there."""
    made = runpy.run_path(str(ROOT / "docs" / "draw_shapes.py"))["sheet"]()
    there = Image.open(ROOT / "docs" / "shapes.png").convert("RGB")
    assert there.size == made.size
    assert np.abs(np.asarray(there, np.int16) - np.asarray(made, np.int16)).mean() < 2


@pytest.mark.slow
@pytest.mark.parametrize("file", list(SHORTER))
def test_scripts(
    file: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (command,) = [command for command in COMMANDS if f"/{file}" in command]
    script, *arguments = shlex.split(command)[1:]
    arguments = ["made" if argument == "DIR" else argument for argument in arguments]
    monkeypatch.setattr(sys, "argv", [script, *arguments, *shlex.split(SHORTER[file])])
    if file == "evaluate.py":
        assert f"{HELD_OUT} held-out pictures" in page(PAGE)
    runpy.run_path(str(ROOT / script), run_name="__main__")
    assert SHOWN[file] in capsys.readouterr().out
    if file == "train.py":
        assert (folder / "made" / "model.safetensors").exists()
