"""Word error rate of the shipped Whisper on the held-out set, through the engine.

The set has 240 utterances by voices that training never heard.

    python examples/whisper_commands/evaluate.py [OPTION=VALUE ...]
"""

import json
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from jiwer import wer

from antiphon import AntiphonError, Engine
from antiphon.cli.pairs import parse_pairs

HERE = Path(__file__).parent


def evaluate(engine: Engine, limit: int | None = None, **options: Any) -> dict[str, float]:
    """Word error rates in percent of each task, and the share of languages that were detected."""
    with zipfile.ZipFile(HERE / "held_out.zip") as archive:
        expected = dict(list(json.loads(archive.read("expected.json")).items())[:limit])
        recordings = [archive.read(name) for name in expected]
    texts = [entry["text"] for entry in expected.values()]
    translations = [entry["english"] for entry in expected.values()]
    languages = [entry["language"] for entry in expected.values()]
    figures = {}
    for name, references, extra in (
        ("transcribe", texts, {"timestamps": False}),
        ("transcribe, timestamps", texts, {"timestamps": True}),
        ("translate", translations, {"timestamps": False, "task": "translate"}),
    ):
        results = []
        for result in engine.transcribe_all(recordings, **extra, **options):
            if isinstance(result, AntiphonError):
                raise result
            results.append(result)
        figures[name] = 100 * wer(references, [result.text for result in results])
        detected = [result.language for result in results]
        right = sum(a == b for a, b in zip(detected, languages, strict=True))
        figures["languages found"] = 100 * right / len(expected)
    return figures


def main() -> None:
    with Engine(str(HERE / "model"), **parse_pairs(sys.argv[1:], "engine option")) as engine:
        began = time.perf_counter()
        figures = evaluate(engine)
        print(f"{(time.perf_counter() - began):.1f} s")
    for name, value in figures.items():
        print(f"{name:24} {value:6.2f} %")


if __name__ == "__main__":
    main()
