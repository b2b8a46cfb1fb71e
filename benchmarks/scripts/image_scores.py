"""Exact answers of the shipped models about 500 held-out pictures, by attention backend of the
encoder, by quantisation and with float8 attention: one table.

    python benchmarks/scripts/image_scores.py [--count 500] [--output FILE.json]

A backend that can't serve an encoder says why.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from antiphon import Engine
from antiphon.attention.registry import BACKENDS
from antiphon.benchmarks.machine import device_name
from antiphon.benchmarks.report import Row, table, write_json
from antiphon.config.errors import AttentionBackendError, describe
from antiphon.examples.qwen_shapes.evaluate import exact
from antiphon.examples.trocr_digits.evaluate import accuracy

EXAMPLES = Path(__file__).parents[2] / "examples"
Score = Callable[[Engine, int], float]
MODELS: dict[str, Score] = {
    "qwen_shapes": lambda engine, count: exact(engine, count)["all"],
    "trocr_digits": accuracy,
}
# On a GPU float8 products give bfloat16, and qwen_shapes is stored in float16.
FLOAT8 = {"quantization": "fp8", "dtype": "bfloat16"}
CASES: dict[str, dict[str, Any]] = {
    "auto": {},
    **{name: {"encoder_attention_backend": name} for name in BACKENDS},
    "auto, fp8": FLOAT8,
    "auto, fp8 attention": {"encoder_attention_dtype": "fp8"},
    "auto, fp8 with fp8 attention": {**FLOAT8, "encoder_attention_dtype": "fp8"},
    "auto, int8": {"quantization": "int8"},
    "auto, float32": {"dtype": "float32"},
}


def scored(name: str, options: dict[str, Any], count: int) -> Row:
    """The share of right answers in percent, or why there is none."""
    try:
        with Engine(str(EXAMPLES / name / "model"), ray=False, **options) as engine:
            assert engine.workers is not None
            used = engine.workers.info["encoder"]["attention"]
            return {name: 100 * MODELS[name](engine, count), f"by, {name}": used}
    except AttentionBackendError as error:
        return {name: str(error).partition("cannot be used: ")[2][:60]}
    except Exception as error:  # the others shall go on
        return {name: describe(error)[:200]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--cases", help=f"of {', '.join(CASES)}, with ; between them")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows: list[Row] = []
    for case in arguments.cases.split(";") if arguments.cases else CASES:
        row: Row = {"case": case}
        for name in MODELS:
            row |= scored(name, CASES[case], arguments.count)
        rows.append(row)
        print(row, flush=True)
        if arguments.output is not None:
            write_json(arguments.output, "scores", device_name(), {}, rows)
    print(table(rows))


if __name__ == "__main__":
    main()
