"""What drafts give, by the number of callers, where a set share of them is right.

    python benchmarks/scripts/drafts_by_callers.py [--model whisper-large-v3] [--layers 2]
        [--acceptance 0.7] [--drafted 2,4] [--callers 1,2,4,8,16,32] [--tokens 64]
        [--engine quantization=fp8] [--output FILE]

Random weights, closed loops, one process without Ray; an engine of its own without drafts and for
each number of tokens drafted at once, after each other. Every request is new, and generates
`--tokens` tokens.

A random draft model is never right. So each token that it drafted is replaced, before the decoder
compares, by the right one with the probability `--acceptance`, else by a wrong one: that is the
rate alpha of Leviathan et al. 2023. All work is done, and three small kernels more. Behind the
first that is wrong none counts, so `acceptance_%`, of all that were drafted, is lower.

`faster`: tokens/s over those without drafts. `speculative_disable_by_batch_size` belongs where it
falls below 1. `--model tiny` is for trying the script out on a CPU.
"""

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from antiphon.benchmarks.machine import device_name
from antiphon.benchmarks.report import Row, table, write_json
from antiphon.benchmarks.serving import Load
from antiphon.benchmarks.shapes import speech_shape, write_checkpoint
from antiphon.cli.pairs import parse_pairs
from antiphon.runtime.garbage import frozen_heap


def forced(share: float) -> Callable[..., Any]:
    """`DraftPlaces.verify`, before which drafts become right with the probability `share`."""
    import torch

    from antiphon.decoder.sampling.verification import DraftPlaces

    verify = DraftPlaces.verify

    def with_share(places: DraftPlaces, samples: Any, slots: Any) -> torch.Tensor:
        is_right = torch.rand(len(places.drafts), device=places.drafts.device) < share
        places.drafts.copy_(torch.where(is_right, samples.tokens, samples.tokens ^ 1))
        return verify(places, samples, slots)

    return with_share


def measure(folder: str, options: dict[str, Any], arguments: argparse.Namespace) -> list[Row]:
    """In a process of its own: a row for each number of callers."""
    from antiphon.benchmarks.local import LocalEngine
    from antiphon.decoder.sampling.verification import DraftPlaces

    size = arguments.seconds, arguments.tokens
    drafts = "speculative_model" in options
    verifying = patch.object(DraftPlaces, "verify", forced(arguments.acceptance))
    with verifying if drafts else nullcontext():
        engine = LocalEngine(folder, options, Load(1, *size))
        try:
            rows = []
            with frozen_heap():
                for callers in arguments.callers:
                    engine.run([size] * callers, callers)
                    count = max(arguments.requests, arguments.turns * callers)
                    rows.append(engine.closed_loop([size] * count, callers))
            return rows
        finally:
            engine.close()


def all_rows(folder: Path, arguments: argparse.Namespace) -> list[Row]:
    own, draft = folder / "own", folder / "draft"
    shape = speech_shape(arguments.model)
    for path, config in ((own, shape), (draft, {**shape, "decoder_layers": arguments.layers})):
        path.mkdir()
        write_checkpoint(config, path)
    options = {"load_format": "dummy", **parse_pairs(arguments.engine, "--engine")}
    measured: dict[int, list[Row]] = {}
    for drafted in (0, *arguments.drafted):
        of_drafts = {
            "speculative_method": "draft_model",
            "speculative_model": str(draft),
            "num_speculative_tokens": drafted,
            "speculative_disable_by_batch_size": max(arguments.callers),
        }
        engine_options = {**options, **(of_drafts if drafted else {})}
        # What an engine held is surely free when its process has ended.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            measured[drafted] = process.submit(
                measure, str(own), engine_options, arguments
            ).result()
        print(f"measured: {drafted} tokens drafted at once", flush=True)
    return [
        row_of(drafted, rows[number], measured[0][number])
        for number in range(len(arguments.callers))
        for drafted, rows in measured.items()
    ]


def row_of(drafted: int, row: Row, without: Row) -> Row:
    return {
        "callers": row["concurrency"],
        "drafted": drafted or "none",
        "requests": row["requests"],
        "ms a request": row["median_ms"],
        "tokens/s": row["tokens/s"],
        "faster": row["tokens/s"] / without["tokens/s"],
        "acceptance_%": row.get("acceptance_%"),
        "acceptance_length": row.get("acceptance_length"),
    }


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="whisper-large-v3")
    parser.add_argument("--layers", type=int, default=2, help="of the draft model")
    parser.add_argument("--acceptance", type=float, default=0.7)
    parser.add_argument("--drafted", type=numbers, default=[2, 4], metavar="N,N,...")
    parser.add_argument("--callers", type=numbers, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--requests", type=int, default=24, help="of each load, at least")
    parser.add_argument("--turns", type=int, default=6, help="requests of each caller, at least")
    parser.add_argument("--seconds", type=float, default=30, help="of sound")
    parser.add_argument("--tokens", type=int, default=64, help="of each request")
    parser.add_argument("--engine", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = all_rows(Path(folder), arguments)
    print(device_name())
    print(table(rows))
    if arguments.output is not None:
        options = json.loads(json.dumps(vars(arguments), default=str))
        write_json(arguments.output, "drafts by callers", device_name(), options, rows)


if __name__ == "__main__":
    main()
