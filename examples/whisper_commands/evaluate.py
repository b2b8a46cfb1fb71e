"""Word error rate of the shipped Whisper on the held-out set (240 utterances, voices unheard in training), through the engine.

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
    """Word error rates in per cent: transcription without and with timestamps, translation; and languages found."""
    with zipfile.ZipFile(HERE / "held_out.zip") as archive:
        expected = dict(list(json.loads(archive.read("expected.json")).items())[:limit])
        recordings = [archive.read(name) for name in expected]
    texts = [each["text"] for each in expected.values()]
    figures = {}
    for name, wanted, extra in (
        ("transcribe", texts, {"timestamps": False}),
        ("transcribe, timestamps", texts, {"timestamps": True}),
        (
            "translate",
            [each["english"] for each in expected.values()],
            {"timestamps": False, "task": "translate"},
        ),
    ):
        results = engine.transcribe_all(recordings, **extra, **options)
        for result in results:
            if isinstance(result, AntiphonError):
                raise result
        heard = [result.text for result in results if not isinstance(result, AntiphonError)]
        figures[name] = 100 * wer(wanted, heard)
        found = sum(
            r.language == e["language"]
            for r, e in zip(results, expected.values(), strict=True)
            if not isinstance(r, AntiphonError)
        )
        figures["languages found"] = 100 * found / len(expected)
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
