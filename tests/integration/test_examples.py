"""The shipped models are as accurate as docs/performance.md says, measured through the engine."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from paths import EXAMPLES

from antiphon import Engine

pytestmark = pytest.mark.usefixtures("ray_cluster")


def load(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(path.parent))
    for name in ("train", "evaluate", "corpus"):  # the folders use the same names
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec = importlib.util.spec_from_file_location(f"example_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_whisper_on_voices_it_never_heard(
    monkeypatch: pytest.MonkeyPatch, whisper_folder: Path
) -> None:
    evaluate = load(EXAMPLES / "whisper_commands" / "evaluate.py", monkeypatch).evaluate
    with Engine(str(whisper_folder)) as engine:
        figures = evaluate(engine)
    assert figures["transcribe"] <= 5.0
    assert figures["transcribe, timestamps"] <= 5.0
    assert figures["translate"] <= 5.0
    assert figures["languages found"] >= 98.0


def test_t5_on_numbers_it_never_saw(
    monkeypatch: pytest.MonkeyPatch, numbers_over_ray: Engine
) -> None:
    accuracy = load(EXAMPLES / "t5_numbers" / "evaluate.py", monkeypatch).accuracy
    assert accuracy(numbers_over_ray, 500) >= 0.98


def test_checkpoints_are_small() -> None:
    for folder in ("whisper_commands", "t5_numbers"):
        size = sum(path.stat().st_size for path in (EXAMPLES / folder / "model").iterdir())
        assert size < 10 * 2**20  # bytes
