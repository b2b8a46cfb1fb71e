"""Word error rate of the shipped Whisper for attention backends, precisions and float8 settings, in one table.

    python benchmarks/scripts/word_error_rate.py [--device cuda] [--limit 120] [--samples FILE.npz] [--json FILE]

Encoder and decoder run in this process, without Ray. `--write-samples FILE.npz` only decodes the recordings into FILE, for a machine
without PyAV.
"""

import argparse
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jiwer import wer

ROOT = Path(__file__).parents[2]
WHISPER = ROOT / "examples" / "whisper_commands"
sys.path.insert(0, str(ROOT / "tests" / "fakes"))

from plain_engine import PlainEngine  # noqa: E402

from antiphon.benchmarks.report import table  # noqa: E402
from antiphon.config.errors import AntiphonError  # noqa: E402
from antiphon.config.sampling import SamplingParams  # noqa: E402
from antiphon.inputs.processor import InputProcessor  # noqa: E402

FP8_KV, FP8, INT8 = {"kv_cache_dtype": "fp8"}, {"quantization": "fp8"}, {"quantization": "int8"}
CASES: dict[str, list[dict[str, Any]]] = {
    "cpu": [{}, {"decoder_attention_backend": "torch_sdpa"}, {**FP8_KV, "decoder_attention_backend": "torch_sdpa"}, FP8, INT8],
    "cuda": [
        {"dtype": "float32", "encoder_attention_backend": "torch_sdpa", "decoder_attention_backend": "torch_sdpa"},
        {"dtype": "float32", "encoder_attention_backend": "triton", "decoder_attention_backend": "triton"},
        *(
            {"dtype": dtype, "encoder_attention_backend": encoder, "decoder_attention_backend": decoder, "kv_page_size": page_size}
            for dtype in ("bfloat16", "float16")
            for encoder, decoder, page_size in (
                ("flashinfer", "triton", 16), ("torch_sdpa", "torch_sdpa", 16), ("flash_attn", "flash_attn", 256),
                ("flash_attn_3", "flash_attn_3", 16),
                ("triton", "flashinfer", 16), ("xformers", "triton", 64),
            )
        ),
        {"dtype": "bfloat16", "enforce_eager": True},
        {"dtype": "bfloat16", **FP8_KV},
        {"dtype": "bfloat16", **FP8_KV, "decoder_attention_backend": "flashinfer"},
        {"dtype": "bfloat16", **FP8_KV, "decoder_attention_backend": "flash_attn_3"},
        {"dtype": "bfloat16", **FP8},
        {"dtype": "bfloat16", **FP8_KV, **FP8},
        {"dtype": "bfloat16", **INT8},
        {"dtype": "float16", **INT8},
    ],
}  # fmt: skip


def read_recordings(
    limit: int, samples: Path | None
) -> tuple[list[np.ndarray], list[str], list[str]]:
    """Samples, expected texts, languages."""
    with zipfile.ZipFile(WHISPER / "held_out.zip") as archive:
        expected = dict(list(json.loads(archive.read("expected.json")).items())[:limit])
        texts, languages = (
            [each[name] for each in expected.values()] for name in ("text", "language")
        )
        if samples is not None:
            stored = np.load(samples)
            return [stored[name].astype(np.float32) / 32768 for name in expected], texts, languages
        from antiphon.inputs.audio.forms import load_audio

        return [load_audio(archive.read(name), 16_000) for name in expected], texts, languages


def transcribe(
    inputs: InputProcessor, clips: list[np.ndarray], languages: list[str], options: dict[str, Any]
) -> list[str]:
    engine = PlainEngine(
        WHISPER / "model", inputs.whisper.rules(), max_num_seqs=32, kv_cache_memory_gib=2, **options
    )  # type: ignore[union-attr]
    params = SamplingParams()
    for clip, language in zip(clips, languages, strict=True):
        prompt = inputs.whisper.prompt(language, "transcribe", False)  # type: ignore[union-attr]
        rules = inputs.rules(len(prompt), params, False)
        engine.submit(
            engine.request(
                clip, prompt, inputs.max_tokens(len(prompt), params), rules, params=params
            )
        )
    ends = engine.run()
    return [inputs.decode(ends[i].token_ids).strip() for i in range(len(clips))]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=list(CASES), default="cpu")
    parser.add_argument("--limit", type=int, default=240)
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--write-samples", type=Path)
    parser.add_argument(
        "--backend",
        help="only cases that name it; xformers' CUDA library may need a process of its own",
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    clips, texts, languages = read_recordings(arguments.limit, arguments.samples)
    if arguments.write_samples is not None:
        with zipfile.ZipFile(WHISPER / "held_out.zip") as archive:
            names = list(json.loads(archive.read("expected.json")))
        whole = {
            name: np.round(clip * 32768).clip(-32768, 32767).astype(np.int16)
            for name, clip in zip(names, clips, strict=False)
        }
        np.savez_compressed(arguments.write_samples, **whole)  # type: ignore[arg-type]
        return
    from antiphon.config.options import ModelOptions
    from antiphon.families.checkpoint import ModelConfig

    inputs = InputProcessor(ModelConfig.load(ModelOptions(str(WHISPER / "model"))))
    rows = []
    for case in CASES[arguments.device]:
        if arguments.backend is not None and arguments.backend not in case.values():
            continue
        row = {"options": " ".join(f"{name}={value}" for name, value in case.items()) or "defaults"}
        try:
            heard = transcribe(inputs, clips, languages, {"device": arguments.device, **case})
            rows.append({**row, "word error rate %": 100 * wer(texts, heard)})
        except AntiphonError as error:
            rows.append({**row, "refused": str(error)})
        print(rows[-1], flush=True)
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
