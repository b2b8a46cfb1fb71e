"""Writes what faster-whisper hears in the recordings of read speech, for tests to compare with.

    pip install --target FOLDER --no-deps faster-whisper==1.2.1 ctranslate2==4.8.5
    PYTHONPATH=...:FOLDER python tests/fakes/record_faster_whisper.py

With published tiny.en and base in float32 on a CPU, word times, and the settings below. Goes to
faster_whisper_heard.json beside this file.
"""

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import faster_whisper
import real_weights

HEARD = Path(__file__).with_name("faster_whisper_heard.json")
MODELS = ("tiny.en", "base")
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0, "beam_size": 1},
    "beams": {"temperature": 0.0, "beam_size": 5},
}


def segment(one: Any) -> dict[str, Any]:
    return {
        "start": one.start,
        "end": one.end,
        "text": one.text,
        "temperature": one.temperature,
        "avg_logprob": round(one.avg_logprob, 4),
        "words": [[word.word, round(word.start, 2), round(word.end, 2)] for word in one.words],
    }


def heard_by(name: str) -> dict[str, Any]:
    """What the published model of that name hears, by settings and recording."""
    folder = str(real_weights.ctranslate2(name))
    model = faster_whisper.WhisperModel(folder, device="cpu", compute_type="float32", cpu_threads=1)
    found: dict[str, Any] = {}
    for settings, options in SETTINGS.items():
        found[settings] = {}
        for path in (real_weights.speech() / name for name in real_weights.references()):
            segments, _ = model.transcribe(
                str(path), language="en", word_timestamps=True, **options
            )
            found[settings][path.name] = [segment(one) for one in segments]
    return found


def main() -> None:
    heard: dict[str, Any] = {
        "versions": {
            name: importlib.metadata.version(name) for name in ("faster-whisper", "ctranslate2")
        }
    }
    for name in sys.argv[1:] or MODELS:
        heard[name] = heard_by(name)
    HEARD.write_text(json.dumps(heard, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
