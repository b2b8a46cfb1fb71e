"""Whole models as quantised checkpoints give them: decoder steps, offline throughput and memory.

    python benchmarks/scripts/quantized_models.py [--models whisper-large-v3,flan-t5-xl,qwen2.5-7b]
        [--schemes bf16,fp8,fp8-checkpoint,w4a16,w8a8] [--sequences 1,16,64] [--requests 256]
        [--output FILE]

On a CUDA device, without Ray; each case in a process of its own. Weights are random, in the form in
which a checkpoint of that scheme has them. `qwen2.5-7b` is also the text decoder of
Qwen2.5-VL-7B. `fp8` is `quantization="fp8"` of plain weights; `fp8-checkpoint` has a scale per
output and token, `fp8-blocks` blocks of 128 by 128, `w4a16` groups of 128, `w8a8` a scale per
output and token.

`ms`: of one decoder step in its graph; `limit_ms`: of the bytes that it must read at the rate of a
copy; `weights_gib`: what of these are weights; `x bf16`: of the same of bf16. `kv_pages`: for which
the rest of the memory is enough, beside both halves. `--models tiny,tiny-text` is for trying the
script out on a CPU, whose steps are timed with the host's work.
"""

import argparse
import asyncio
import json
import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from antiphon.benchmarks.machine import device_name
from antiphon.benchmarks.report import Row, table, write_json
from antiphon.benchmarks.serving import Load
from antiphon.benchmarks.shapes import speech_shape, write_checkpoint

QWEN: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "eos_token_id": 151645,
    "bos_token_id": 151643,
    "pad_token_id": 151643,
}
TINY_TEXT = {
    **QWEN, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
    "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip
# Of each model: encoder tokens and decoder tokens of a step's sequences; the offline load.
CASES = {
    "whisper-large-v3": (1500, 32, Load(256, 30, 64)),
    "flan-t5-xl": (512, 32, Load(256, 350, 128)),
    "qwen2.5-7b": (0, 512, Load(256, 256, 128)),
    "tiny": (1500, 16, Load(4, 1, 4)),
    "tiny-text": (0, 16, Load(4, 8, 4)),
}
TOKEN = {"num_bits": 8, "strategy": "token", "dynamic": True, "symmetric": True}
BY_OUTPUT = {"num_bits": 8, "strategy": "channel", "symmetric": True}
FOUR_BITS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
BLOCKS = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}
BLOCK_INPUTS = {**TOKEN, "type": "float", "strategy": "group", "group_size": 128}


def settings(layout: str, weights: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    """compressed-tensors' `quantization_config`."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    ignored = ["lm_head", "proj_out"]
    return {
        "quant_method": "compressed-tensors", "format": layout, "ignore": ignored,
        "config_groups": {"group_0": group},
    }  # fmt: skip


FLOAT, INT = {"type": "float"}, {"type": "int"}
PLAIN: dict[str, dict[str, Any]] = {"bf16": {}, "fp8": {"quantization": "fp8"}}
STORED = {
    "fp8-checkpoint": settings("float-quantized", {**BY_OUTPUT, **FLOAT}, {**TOKEN, **FLOAT}),
    "fp8-blocks": settings("float-quantized", BLOCKS, BLOCK_INPUTS),
    "w8a8": settings("int-quantized", {**BY_OUTPUT, **INT}, {**TOKEN, **INT}),
    "w4a16": settings("pack-quantized", {**FOUR_BITS, "symmetric": True}, None),
}


def shape(model: str) -> dict[str, Any]:
    texts = {"qwen2.5-7b": QWEN, "tiny-text": TINY_TEXT}
    return texts[model] if model in texts else speech_shape(model)


# ------------------------------------------------------------ in a process of its own


def steps(folder: str, options: dict[str, Any], model: str, batches: list[int]) -> list[Row]:
    import torch

    from antiphon.benchmarks import steps as measured
    from antiphon.benchmarks.machine import measure
    from antiphon.config.options import resolve
    from antiphon.families.checkpoint import ModelConfig

    config, (cross_len, length, _) = resolve(folder, options), CASES[model]
    described = ModelConfig.load(config.model)
    if torch.cuda.is_available():
        return measured.decoder(described, config, measure(), batches, cross_len, length)
    rows = measured.decoder_with_host(described, config, batches, cross_len, length)
    return [{**row, "ms": row["ms_with_host"]} for row in rows]


def offline(folder: str, options: dict[str, Any], model: str, requests: int) -> Row:
    """All requests at once."""
    from antiphon import AsyncEngine
    from antiphon.benchmarks import serving
    from antiphon.runtime.garbage import frozen_heap

    load = CASES[model][2]
    load = Load(min(requests, load.requests), load.input_size, load.output_tokens)

    async def measured() -> Row:
        async with AsyncEngine(folder, ray=False, **options) as engine:
            with frozen_heap():
                row = await serving.throughput(engine, load)
            assert engine.workers is not None
            return {**row, "kv_pages": engine.workers.info["decoder"]["kv_pages"]}

    return asyncio.run(measured())


# ------------------------------------------------------------ all of them


def case(model: str, scheme: str, arguments: argparse.Namespace) -> Iterator[Row]:
    config = shape(model)
    if scheme in STORED:
        config = {**config, "quantization_config": STORED[scheme]}
    options = {"load_format": "dummy", "max_num_seqs": 128, **PLAIN.get(scheme, {})}
    if not CASES[model][0]:
        options["max_model_len"] = 1024
    named: Row = {"model": model, "scheme": scheme}
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(config, Path(folder))
        for work, count in ((steps, arguments.sequences), (offline, arguments.requests)):
            # What an engine held is surely free when its process has ended.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                measured: Any = process.submit(work, folder, options, model, count).result()
            for row in measured if isinstance(measured, list) else [measured]:
                yield {**named, **row}


def compared(rows: list[Row]) -> list[Row]:
    """With the times of bf16 for the same model and sequences, and its requests/s."""
    plain = {(row["model"], row.get("batch")): row for row in rows if row["scheme"] == "bf16"}
    for row in rows:
        other = plain.get((row["model"], row.get("batch")))
        if other is not None:
            figure = "ms" if "ms" in row else "requests/s"
            row["x bf16"] = row[figure] / other[figure]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="whisper-large-v3,flan-t5-xl,qwen2.5-7b")
    parser.add_argument("--schemes", default=",".join([*PLAIN, *STORED]))
    parser.add_argument("--sequences", default="1,16,64")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    arguments.sequences = [int(number) for number in arguments.sequences.split(",")]
    rows: list[Row] = []
    for model in arguments.models.split(","):
        for scheme in arguments.schemes.split(","):
            try:
                rows += case(model, scheme, arguments)
            except Exception as error:
                print(f"{model} {scheme}: {type(error).__name__}: {str(error)[:400]}", flush=True)
            print(f"measured: {model}, {scheme}", flush=True)
            if arguments.output is not None:
                options = json.loads(json.dumps(vars(arguments), default=str))
                write_json(arguments.output, "quantised models", device_name(), options, rows)
    print(device_name())
    rows = compared(rows)
    print(table([row for row in rows if "batch" in row]))
    print(table([row for row in rows if "requests/s" in row]))


if __name__ == "__main__":
    main()
