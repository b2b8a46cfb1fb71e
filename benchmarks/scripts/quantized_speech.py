"""Word error rate of Whisper for each scheme of quantised checkpoints, beside full precision.

    python benchmarks/scripts/quantized_speech.py [--device cuda] [--models tiny.en,base,shipped]
        [--limit 60] [--only w4a16] [--json FILE]

`tiny.en` and `base` are published weights on recorded speech with references, `shipped` is the
model of examples/whisper_commands on LIMIT of its held-out recordings. Each is written as a scheme
publishes it, and read as one that was fetched. `words that differ`: from the text of full
precision. Encoder and decoder run in this process, without Ray.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from word_error_rate import WHISPER, read_recordings, transcribe

# Above: puts tests/fakes on the path.
import real_weights  # isort: skip
from quantized_checkpoints import TOKEN, Method, publish  # isort: skip
from real_speech_gpu import word_errors
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from antiphon.benchmarks.report import table
from antiphon.config.options import ModelOptions
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.audio.forms import load_audio
from antiphon.inputs.processor import InputProcessor

FLOAT, INT = {"type": "float"}, {"type": "int"}
FULL = "full precision"


def schemes(width: int) -> dict[str, Method]:
    """By name. Inputs in groups: so many as published models have, where `width` is a multiple."""
    group = next(size for size in (128, 64, 32) if width % size == 0)
    blocks = {"weight_block_size": [group, group], "activation_scheme": "dynamic"}
    return {
        "fp8 by output and token": Method("float", 8, (1, 0), inputs={**TOKEN, **FLOAT}),
        f"fp8 in blocks of {group}": Method(
            "float", 8, (group, group), method="fp8",
            inputs={**TOKEN, **FLOAT, "group_size": group}, settings=blocks,
        ),
        "fp8 weights alone": Method("float", 8, (1, 0)),
        "w8a8 by output and token": Method("int", 8, (1, 0), inputs={**TOKEN, **INT}),
        "w8a16 by output": Method("int", 8, (1, 0)),
        f"w8a16 in groups of {group}": Method("int", 8, (1, group), packed=True),
        f"w4a16 in groups of {group}": Method("int", 4, (1, group), packed=True),
        "w4a16 in groups of 32": Method("int", 4, (1, 32), packed=True),
        f"w4a16 in groups of {group}, zero points": Method(
            "int", 4, (1, group), symmetric=False, packed=True
        ),
        f"w4a16 in groups of {group}, any order": Method(
            "int", 4, (1, group), packed=True, ordered=True
        ),
    }  # fmt: skip


@dataclass(frozen=True)
class Speech:
    """A model, and recordings of at most a window with their words."""

    name: str
    folder: Path
    clips: list[np.ndarray]
    languages: list[str]
    references: list[str]


def speech(name: str, limit: int) -> Speech:
    if name == "shipped":
        clips, texts, languages = read_recordings(limit, None)
        return Speech(name, WHISPER / "model", clips, languages, texts)
    known = real_weights.references()
    files = [path for path in real_weights.recordings() if path.name in known]
    clips = [load_audio(path.read_bytes(), 16_000) for path in files]
    texts = [known[path.name] for path in files]
    return Speech(name, real_weights.model(name), clips, ["en"] * len(files), texts)


def rows(case: Speech, device: str, only: str) -> Iterator[dict[str, Any]]:
    config = json.loads((case.folder / "config.json").read_text())
    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(case.folder))))
    options: dict[str, Any] = {"device": device}
    plain = transcribe(inputs, case.clips, case.languages, options, case.folder)
    yield row(case, FULL, plain, plain, case.folder)
    for name, method in schemes(config["d_model"]).items():
        if not any(part in name for part in only.split(",")):
            continue
        own = dict(options)
        if device == "cpu" and slow(method):
            own["quantization"] = "dequantize"
        with tempfile.TemporaryDirectory() as folder:
            model = WhisperForConditionalGeneration.from_pretrained(case.folder)
            publish(model.float(), case.folder, Path(folder), method)
            del model
            heard = transcribe(inputs, case.clips, case.languages, own, Path(folder))
            yield row(case, name, heard, plain, Path(folder))


def slow(method: Method) -> bool:
    """Whether a CPU would multiply the weights out for each product. The numbers are the same where
    that is done once."""
    by_group = method.bits == 8 and method.block[1] > 0
    return method.inputs is None and (method.kind == "float" or by_group or method.ordered)


def row(
    case: Speech, scheme: str, heard: list[str], plain: list[str], folder: Path
) -> dict[str, Any]:
    normalize = EnglishTextNormalizer({})
    texts, wanted, before = (
        [normalize(text) for text in some] for some in (heard, case.references, plain)
    )
    words = sum(len(text.split()) for text in wanted)
    megabytes = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
    return {
        "model": case.name,
        "scheme": scheme,
        "word error rate %": 100 * sum(map(word_errors, wanted, texts)) / words,
        "of words": words,
        "words that differ": sum(map(word_errors, before, texts)),
        "MB": round(megabytes, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--models", default="tiny.en,base,shipped")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument(
        "--only", default="", help="schemes whose names hold one of these, with commas"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = []
    for name in arguments.models.split(","):
        for figures in rows(speech(name, arguments.limit), arguments.device, arguments.only):
            found.append(figures)
            print(figures, flush=True)
    print(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
