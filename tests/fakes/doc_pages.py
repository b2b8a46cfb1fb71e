"""Pages of documentation, and what stands for the models and files that they name."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_translators
from first_layers import first_layers
from paths import EXAMPLES, RECORDINGS, ROOT, T5, WHISPER
from tiny_moonshine import make_moonshine

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


def blocks(name: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page(name), re.S)


def prepare(folder: Path) -> None:
    """Writes the files that the pages name."""
    (folder / "calls").mkdir()
    shutil.copy(RECORDINGS / "wecker.wav", folder / "call.mp3")
    shutil.copy(RECORDINGS / "wecker.wav", folder / "talk.mp3")
    shutil.copy(RECORDINGS / "wecker.wav", folder / "calls" / "first.wav")
    (folder / "lines.txt").write_text("the red house\n")
    (folder / "calls.jsonl").write_text('{"audio": "call.mp3", "id": "0001"}\n')
    (folder / "prompts.jsonl").write_text('{"text": "in words: 42"}\n')
    (folder / "examples").symlink_to(EXAMPLES)


def model_of(name: str, folder: Path) -> str:
    """Ours, for a published one."""
    if name not in MADE:
        return str(PUBLISHED.get(name, name))
    made = folder / name.split("/")[1]
    if not made.exists():
        made.mkdir()
        MADE[name](made)
    return str(made)
