"""Word error rate of Whisper for each scheme of quantised checkpoints, beside float32.

    python benchmarks/scripts/quantized_speech.py [--device cuda] [--models tiny.en,base,shipped]
        [--limit 120] [--only w4a16,gptq] [--json FILE]

`tiny.en` and `base` are published weights on recorded speech with references, `shipped` is the
model of examples/whisper_commands on LIMIT of its held-out recordings. Each is written as a scheme
publishes it, rounded to the nearest, and read as one that was fetched, by an engine without Ray.
`words unlike`: from the text of full precision. `seconds`: for all recordings, behind one that was
not counted; on a CPU the schemes whose weights it would multiply out for each product have that
done as they are loaded (`computed`).
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from word_error_rate import WHISPER, read_recordings

# Above: puts tests/fakes on the path.
import real_weights  # isort: skip
from packed_checkpoints import packed_and_dense, write_like  # isort: skip
from packed_writers import methods as packed_methods  # isort: skip
from quantized_checkpoints import TOKEN, Method, publish  # isort: skip
from real_speech_gpu import word_errors
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from antiphon import Engine
from antiphon.benchmarks.report import table
from antiphon.inputs.audio.forms import load_audio

FLOAT, INT = {"type": "float"}, {"type": "int"}
FULL = "full precision"
OWN = ("int8", "fp8")  # the engine's, of plain weights
# Weights that a CPU has no product for: once multiplied out, the numbers are the same.
MULTIPLIED_OUT = ("fp8 weights", "w8a16", "8 bits", "nf4", "float8", "int8 (")
# Of `packed_writers`, by what they are called here.
PACKED = {
    "gptq, 4 bits": "gptq",
    "gptq, 4 bits, act-order": "gptq_act_order",
    "gptq, 8 bits": "gptq_8_bits",
    "awq": "awq",
    "bitsandbytes, 8 bits": "llm_int8",
    "bitsandbytes, nf4": "nf4",
    "bitsandbytes, nf4 quantised twice": "nf4_twice",
    "torchao, int8 (weights)": "torchao_int8",
    "torchao, int4": "torchao_int4",
    "torchao, float8 (weights)": "torchao_float8",
}
Write = Callable[["Speech", Path], None]  # a checkpoint into a folder


def compressed(group: int) -> dict[str, Method]:
    """Schemes of compressed-tensors and Hugging Face's fp8. `group`: inputs that share a scale."""
    blocks = {"weight_block_size": [group, group], "activation_scheme": "dynamic"}
    bound = {"activation_scale_ub": 1200.0}
    by_token = {**TOKEN, **FLOAT}
    return {
        "fp8 by output and token": Method("float", 8, (1, 0), inputs=by_token),
        "fp8 in blocks": Method(
            "float", 8, (group, group), method="fp8",
            inputs={**by_token, "group_size": group}, settings=blocks,
        ),
        "fbgemm_fp8": Method(
            "float", 8, (1, 0), method="fbgemm_fp8", inputs=by_token, settings=bound
        ),
        "fp8 weights alone": Method("float", 8, (1, 0)),
        "w8a8 by output and token": Method("int", 8, (1, 0), inputs={**TOKEN, **INT}),
        "w8a16 by output": Method("int", 8, (1, 0)),
        "w8a16 in groups": Method("int", 8, (1, group), packed=True),
        "w4a16 in groups": Method("int", 4, (1, group), packed=True),
        "w4a16 in groups of 32": Method("int", 4, (1, 32), packed=True),
        "w4a16, zero points": Method("int", 4, (1, group), symmetric=False, packed=True),
        "w4a16, any order": Method("int", 4, (1, group), packed=True, ordered=True),
    }  # fmt: skip


def schemes(width: int) -> dict[str, Write]:
    """By name. Groups: so large as published models have, where `width` is a multiple."""
    group = next(size for size in (128, 64, 32) if width % size == 0)
    packed = packed_methods(group)

    def by_library(method: Method) -> Write:
        return lambda case, folder: publish(model_of(case), case.folder, folder, method)

    def by_number(name: str) -> Write:
        settings, writer = packed[name]

        def write(case: Speech, folder: Path) -> None:
            tensors, _ = packed_and_dense(case.folder, model_of(case), writer)
            write_like(case.folder, folder, tensors, settings)

        return write

    return {
        **{name: by_library(method) for name, method in compressed(group).items()},
        **{name: by_number(own) for name, own in PACKED.items()},
    }


def model_of(case: "Speech") -> WhisperForConditionalGeneration:
    return WhisperForConditionalGeneration.from_pretrained(case.folder).float()


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


@dataclass(frozen=True)
class Heard:
    texts: list[str]
    seconds: float
    of_cpu: float  # seconds of all threads


def transcribe(case: Speech, folder: Path, options: dict[str, Any]) -> Heard:
    """What the checkpoint in `folder` hears."""
    with Engine(str(folder), ray=False, **options) as engine:
        how = {"temperature": 0, "timestamps": False}
        engine.transcribe(case.clips[0][::-1].copy(), language="en", **how)
        texts = [""] * len(case.clips)
        began, busy = time.perf_counter(), time.process_time()
        for language in sorted(set(case.languages)):
            places = [i for i, own in enumerate(case.languages) if own == language]
            own = [case.clips[i] for i in places]
            for i, heard in zip(
                places, engine.transcribe_all(own, language=language, **how), strict=True
            ):
                if isinstance(heard, Exception):
                    raise heard
                texts[i] = heard.text
        return Heard(texts, time.perf_counter() - began, time.process_time() - busy)


def rows(case: Speech, device: str, only: str) -> Iterator[dict[str, Any]]:
    config = json.loads((case.folder / "config.json").read_text())
    options: dict[str, Any] = {"device": device}
    if device == "cpu":
        options["dtype"] = "float32"
    plain = transcribe(case, case.folder, options)
    wanted = only.split(",")
    yield row(case, FULL, plain, plain, case.folder, "")
    for name in OWN:
        if any(part in f"engine's {name}" for part in wanted):
            heard = transcribe(case, case.folder, {**options, "quantization": name})
            yield row(case, f"engine's {name}", heard, plain, case.folder, "")
    for name, write in schemes(config["d_model"]).items():
        if not any(part in name for part in wanted):
            continue
        once = device == "cpu" and any(part in name for part in MULTIPLIED_OUT)
        own = {**options, "quantization": "dequantize"} if once else options
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "model"
            write(case, target)
            heard = transcribe(case, target, own)
            yield row(case, name, heard, plain, target, "multiplied out" if once else "")


def row(
    case: Speech, scheme: str, heard: Heard, plain: Heard, folder: Path, computed: str
) -> dict[str, Any]:
    normalize = EnglishTextNormalizer({})
    texts, wanted, before = (
        [normalize(text) for text in some] for some in (heard.texts, case.references, plain.texts)
    )
    words = sum(len(text.split()) for text in wanted)
    megabytes = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
    return {
        "model": case.name,
        "scheme": scheme,
        "word error rate %": 100 * sum(map(word_errors, wanted, texts)) / words,
        "of words": words,
        "words unlike": sum(map(word_errors, before, texts)),
        "seconds": heard.seconds,
        "CPU seconds": heard.of_cpu,
        "MB": round(megabytes, 1),
        "computed": computed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--models", default="tiny.en,base,shipped")
    parser.add_argument("--limit", type=int, default=120)
    parser.add_argument(
        "--only", default="", help="schemes whose names hold one of these, with commas"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    all_rows = []
    for name in arguments.models.split(","):
        for figures in rows(speech(name, arguments.limit), arguments.device, arguments.only):
            all_rows.append(figures)
            print(figures, flush=True)
    print(table(all_rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(all_rows, indent=1))


if __name__ == "__main__":
    main()
