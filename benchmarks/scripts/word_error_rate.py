"""Word error rate of the shipped Whisper for attention backends and precisions, in one table.

    python benchmarks/scripts/word_error_rate.py [--device cuda] [--limit 120]
        [--samples FILE.npz] [--json FILE]

Encoder and decoder run in this process, without Ray. `--write-samples FILE.npz` only decodes the
recordings into FILE, for a machine without PyAV.
"""

import argparse
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
WHISPER = ROOT / "examples" / "whisper_commands"
sys.path.insert(0, str(ROOT / "tests" / "fakes"))

from plain_engine import PlainEngine  # noqa: E402

from antiphon.benchmarks.report import table  # noqa: E402
from antiphon.config.errors import AntiphonError  # noqa: E402
from antiphon.config.sampling import SamplingParams  # noqa: E402
from antiphon.inputs.processor import InputProcessor  # noqa: E402

FP8_KV, FP8, INT8 = {"kv_cache_dtype": "fp8"}, {"quantization": "fp8"}, {"quantization": "int8"}
BFLOAT16 = {"dtype": "bfloat16"}


def backends(encoder: str, decoder: str) -> dict[str, Any]:
    return {"encoder_attention_backend": encoder, "decoder_attention_backend": decoder}


PAIRS = [
    backends("flashinfer", "triton"),
    backends("torch_sdpa", "torch_sdpa"),
    {**backends("flash_attn", "flash_attn"), "kv_page_size": 256},
    backends("flash_attn_3", "flash_attn_3"),
    backends("triton", "flashinfer"),
    {**backends("xformers", "triton"), "kv_page_size": 64},
]
CASES: dict[str, list[dict[str, Any]]] = {
    "cpu": [
        {},
        {"decoder_attention_backend": "torch_sdpa"},
        {**FP8_KV, "decoder_attention_backend": "torch_sdpa"},
        FP8,
        INT8,
    ],
    "cuda": [
        {"dtype": "float32", **backends("torch_sdpa", "torch_sdpa")},
        {"dtype": "float32", **backends("triton", "triton")},
        *({"dtype": dtype, **pair} for dtype in ("bfloat16", "float16") for pair in PAIRS),
        {**BFLOAT16, "enforce_eager": True},
        {**BFLOAT16, **FP8_KV},
        {**BFLOAT16, **FP8_KV, "decoder_attention_backend": "flashinfer"},
        {**BFLOAT16, **FP8_KV, "decoder_attention_backend": "flash_attn_3"},
        {**BFLOAT16, **FP8},
        {**BFLOAT16, **FP8_KV, **FP8},
        {**BFLOAT16, **INT8},
        {"dtype": "float16", **INT8},
    ],
}


def read_recordings(
    limit: int, samples: Path | None
) -> tuple[list[np.ndarray], list[str], list[str]]:
    """Samples at 16 kHz, expected texts and languages of the first `limit` recordings."""
    with zipfile.ZipFile(WHISPER / "held_out.zip") as archive:
        expected = dict(list(json.loads(archive.read("expected.json")).items())[:limit])
        texts, languages = (
            [entry[name] for entry in expected.values()] for name in ("text", "language")
        )
        if samples is not None:
            stored = np.load(samples)
            return [stored[name].astype(np.float32) / 32768 for name in expected], texts, languages
        from antiphon.inputs.audio.forms import load_audio

        return [load_audio(archive.read(name), 16_000) for name in expected], texts, languages


def transcribe(
    inputs: InputProcessor,
    clips: list[np.ndarray],
    languages: list[str],
    options: dict[str, Any],
    folder: Path = WHISPER / "model",
) -> list[str]:
    """The texts that the checkpoint in `folder` hears."""
    assert inputs.whisper is not None
    limits = {"max_num_seqs": 32, "kv_cache_memory_gib": 2}
    engine = PlainEngine(folder, inputs.whisper.rules(), **limits, **options)
    params = SamplingParams()
    for clip, language in zip(clips, languages, strict=True):
        prompt = inputs.whisper.prompt(language, "transcribe", False)
        rules = inputs.rules(len(prompt), params, False)
        most = inputs.max_tokens(len(prompt), params)
        engine.submit(engine.request(clip, prompt, most, rules, params=params))
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
    from jiwer import wer  # late: other scripts take recordings from here without it

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
