"""A long recording by voice activity and in batches, beside transformers' window after window.

    python benchmarks/scripts/long_recording.py [--minutes 60] [--json FILE]

The recording is the shipped Whisper's English held-out utterances, in random order, with pauses of
0.4 to 2.5 s between them. transformers goes through it by openai/whisper's algorithm: each window
begins where the last whole segment of the one before ended. Both run in this process, float32.
"""

import argparse
import json
import random
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jiwer import wer
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor

from antiphon import Engine
from antiphon.benchmarks.report import table
from antiphon.inputs.audio.forms import load_audio

WHISPER = Path(__file__).parents[2] / "examples" / "whisper_commands"
RATE = 16_000
PAUSES = (0.4, 2.5)  # seconds


def joined(minutes: float, seed: int = 0) -> tuple[np.ndarray, str]:
    """Samples [n] at RATE of about so many minutes, and what is said in them."""
    with zipfile.ZipFile(WHISPER / "held_out.zip") as archive:
        expected = json.loads(archive.read("expected.json"))
        spoken = [
            (load_audio(archive.read(name), RATE), entry["text"])
            for name, entry in expected.items()
            if entry["language"] == "en"
        ]
    rng, parts, texts, length = random.Random(seed), [], [], 0
    while length < minutes * 60 * RATE:
        samples, text = rng.choice(spoken)
        pause = np.zeros(round(rng.uniform(*PAUSES) * RATE), np.float32)
        parts += [samples, pause]
        texts.append(text)
        length += len(samples) + len(pause)
    return np.concatenate(parts), " ".join(texts)


def by_engine(sound: np.ndarray, **options: Any) -> tuple[str, float]:
    """The text, and seconds it took, from samples to text, of an engine that is ready."""
    with Engine(str(WHISPER / "model"), ray=False, dtype="float32") as engine:
        engine.transcribe(sound[: 30 * RATE], language="en", temperature=0, **options)
        began = time.perf_counter()
        result = engine.transcribe(sound, language="en", temperature=0, **options)
        return result.text, time.perf_counter() - began


def by_transformers(sound: np.ndarray) -> tuple[str, float]:
    """Likewise, with its features and its long-form `generate`."""
    model = WhisperForConditionalGeneration.from_pretrained(WHISPER / "model").float().eval()
    extractor = WhisperFeatureExtractor.from_pretrained(WHISPER / "model")
    processor = WhisperProcessor.from_pretrained(WHISPER / "model")
    began = time.perf_counter()
    features = extractor(
        sound, sampling_rate=RATE, return_tensors="pt", truncation=False, padding="longest",
        return_attention_mask=True,
    )  # fmt: skip
    with torch.inference_mode():
        tokens = model.generate(
            features.input_features, attention_mask=features.attention_mask, language="en",
            task="transcribe", return_timestamps=True, condition_on_prev_tokens=False,
        )  # fmt: skip
    text = processor.batch_decode(tokens, skip_special_tokens=True)[0]
    return " ".join(text.split()), time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sound, said = joined(arguments.minutes)
    ways: dict[str, Callable[[], tuple[str, float]]] = {
        "in batches, by voice activity": lambda: by_engine(sound, vad_filter=True),
        "in batches, cut at quiet places": lambda: by_engine(sound),
        "in sequence": lambda: by_engine(
            sound, mode="sequential", condition_on_previous_text=False
        ),
        "transformers": lambda: by_transformers(sound),
    }
    rows = []
    for name, way in ways.items():
        text, seconds = way()
        rows.append({
            "": name,
            "seconds": seconds,
            "times real time": len(sound) / RATE / seconds,
            "word error rate, %": 100 * wer(said, text),
        })  # fmt: skip
        print(rows[-1], flush=True)
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
