"""Word error rates and word times of the shipped Whisper, through the engine.

By voices that training never heard: 240 held-out utterances, 50 recordings in which some of these
are joined, and the shipped recording of 21 s.

    python examples/whisper_commands/evaluate.py [OPTION=VALUE ...]
"""

import json
import random
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jiwer import process_words, wer

from antiphon import AntiphonError, Engine, Transcription
from antiphon.cli.pairs import parse_pairs
from antiphon.inputs.audio.forms import load_audio

HERE = Path(__file__).parent
RATE = 16_000
NEAR = 0.15  # seconds


class Joined(NamedTuple):
    """Held-out utterances of one language, one after the other. `starts`: when each word begins;
    None for one that is run together with the word before."""

    samples: np.ndarray  # [n] float32 at RATE
    text: str
    language: str
    starts: list[float | None]


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
        results = transcribed(engine, recordings, **extra, **options)
        figures[name] = 100 * wer(references, [result.text for result in results])
        detected = [result.language for result in results]
        right = sum(a == b for a, b in zip(detected, languages, strict=True))
        figures["languages found"] = 100 * right / len(expected)
    return figures


def transcribed(engine: Engine, sounds: list[Any], **options: Any) -> list[Transcription]:
    results = []
    for result in engine.transcribe_all(sounds, **options):
        if isinstance(result, AntiphonError):
            raise result
        results.append(result)
    return results


def joined(count: int = 50) -> list[Joined]:
    """The same in each call: 4 to 9 utterances each, two of three in English."""
    rng = random.Random(3)
    with zipfile.ZipFile(HERE / "held_out.zip") as archive:
        expected = json.loads(archive.read("expected.json"))
        clips = {name: load_audio(archive.read(name), RATE) for name in expected}
    times = json.loads((HERE / "held_out_words.json").read_text())
    made = []
    for _ in range(count):
        language = rng.choice(["en", "en", "de"])
        spoken = [name for name in expected if expected[name]["language"] == language]
        names, starts, begin = rng.sample(spoken, rng.randint(4, 9)), list[float | None](), 0.0
        for name in names:
            starts += [None if start is None else begin + start for start in times[name][:-1]]
            begin += len(clips[name]) / RATE
        samples = np.concatenate([clips[name] for name in names]).astype(np.float32)
        text = " ".join(expected[name]["text"] for name in names)
        made.append(Joined(samples, text, language, starts))
    return made


def evaluate_long(engine: Engine, count: int = 50, **options: Any) -> dict[str, float]:
    """Word error rates in percent where windows hold several sentences."""
    expected = json.loads((HERE / "recordings" / "expected.json").read_text())["long.opus"]
    recordings = joined(count)
    figures = {}
    for name, extra in (
        ("batched", {"timestamps": False}),
        ("batched, timestamps", {}),
        ("sequential", {"mode": "sequential"}),
    ):
        sounds = [str(HERE / "recordings" / "long.opus"), *(one.samples for one in recordings)]
        long, *others = transcribed(engine, sounds, **extra, **options)
        figures[f"21 s, {name}"] = 100 * wer(expected, long.text)
        figures[f"joined, {name}"] = 100 * wer(
            [one.text for one in recordings], [result.text for result in others]
        )
    return figures


def evaluate_words(engine: Engine, count: int = 50, **options: Any) -> dict[str, float]:
    """Of the words that were heard right in the joined recordings: the share, in percent, that
    begins within NEAR of the synthesizer's mark, and the median distance in seconds."""
    recordings = joined(count)
    results = transcribed(
        engine, [one.samples for one in recordings], word_timestamps=True, **options
    )
    distances = []
    for one, result in zip(recordings, results, strict=True):
        words = [word for segment in result.segments for word in segment.words or ()]
        heard = " ".join(word.text.strip() for word in words)
        for chunk in process_words(one.text, heard).alignments[0]:
            if chunk.type != "equal":
                continue
            pairs = zip(
                one.starts[chunk.ref_start_idx : chunk.ref_end_idx],
                words[chunk.hyp_start_idx : chunk.hyp_end_idx],
                strict=True,
            )
            distances += [abs(word.start - start) for start, word in pairs if start is not None]
    return {
        f"words within {NEAR} s": 100 * float(np.mean(np.array(distances) <= NEAR)),
        "median, s": float(np.median(distances)),
        "words": len(distances),
    }


def main() -> None:
    with Engine(str(HERE / "model"), **parse_pairs(sys.argv[1:], "engine option")) as engine:
        began = time.perf_counter()
        for title, measure in (
            ("Held-out utterances, errors in %", evaluate),
            ("Several sentences in a window, errors in %", evaluate_long),
            ("When words begin", evaluate_words),
        ):
            print(f"\n{title}")
            for name, value in measure(engine).items():
                print(f"{name:28} {value:8.2f}")
        print(f"\n{(time.perf_counter() - began):.1f} s")


if __name__ == "__main__":
    main()
