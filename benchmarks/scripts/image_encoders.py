"""Images a second of vision encoders at their published sizes, on every attention backend, with and
without CUDA graphs, beside transformers and the matmul rate of the same run.

    python benchmarks/scripts/image_encoders.py siglip-so400m-384 [--backends triton,torch_sdpa]
        [--batches 1x384x384,16x384x384] [--eager auto] [--output FILE.json] [--profile]
    python benchmarks/scripts/image_encoders.py qwen2.5-vl-vision --small    # a rehearsal on a CPU

Random weights in bfloat16. FILE always has all there is so far; a backend that fails says so, and
the others go on. `--profile` prints where the device's time goes, by kernel.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from antiphon.benchmarks import image_encoders, image_peers, profiles
from antiphon.benchmarks.image_encoders import Batch
from antiphon.benchmarks.image_shapes import ENCODERS, small_encoder, threes
from antiphon.benchmarks.machine import Machine, device_name, measure
from antiphon.benchmarks.report import Report, Row, table
from antiphon.benchmarks.shapes import write_checkpoint
from antiphon.config.errors import describe

BATCHES = {
    "siglip-so400m-384": "1x384x384,10x384x384",
    "clip-vit-large-336": "1x336x336,14x336x336",
    "internvit-300m-448": "1x448x448,7x448x448",
    "internvit-6b-448": "1x448x448,7x448x448",
    "qwen2-vl-vision": "2x224x224,16x224x224,1x1344x1344",
    "qwen2.5-vl-vision": "2x224x224,16x224x224,1x1344x1344",
    "swin-base-donut": "1x2560x1920",
    "vit-large-384": "1x384x384,14x384x384",
    "deit-base-384": "1x384x384,14x384x384",
}
DTYPE = {"dtype": "bfloat16"}
SMALL_SWIN = "2x160x160"
KERNELS = 15  # of a profile


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=list(ENCODERS))
    parser.add_argument("--backends", default="triton,flash_attn,flashinfer,torch_sdpa")
    parser.add_argument("--batches")
    parser.add_argument("--eager", default="auto", help="backends that also run without graphs")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--profile", action="store_true", help="of each backend with each batch")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    config = ENCODERS[arguments.name]
    config = small_encoder(config) if arguments.small else config
    default = BATCHES[arguments.name]
    if arguments.small:
        default = SMALL_SWIN if "depths" in config else default.split(",")[0]
    batches = threes(arguments.batches or default)
    watch = print_profile if arguments.profile else None
    on_cuda = torch.cuda.is_available()
    machine = measure() if on_cuda else None  # on a CPU it is a rehearsal
    report = Report(arguments.name, machine or device_name(), arguments.output)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(config, Path(folder))
        operations = _peers(Path(folder), batches, machine, report)
        for name, eager in _runs(folder, arguments.backends, arguments.eager):
            options = {**DTYPE, "encoder_attention_backend": name, "enforce_eager": eager}
            try:
                rows = image_encoders.measure(folder, options, batches, watch)
            except Exception as error:
                print(f"{name}: {describe(error)}", flush=True)
                image_encoders.release()
                continue
            _add(rows, operations, machine, report)
    print(f"{arguments.name} on {machine or device_name()}")
    print(table(report.rows))


def print_profile(row: Row, work: Callable[[], Any]) -> None:
    names = (row[name] for name in ("attention", "images", "size", "graph"))
    print("{}, {} images of {}, graph: {}".format(*names))
    rows = profiles.rows_of(profiles.kernels(profiles.traced(work)), KERNELS)
    print(table(rows) if rows else "the profiler saw no kernels", flush=True)


def _add(
    rows: list[Row], operations: dict[Batch, int], machine: Machine | None, report: Report
) -> None:
    """Beside those that are there."""
    image_encoders.with_limits(report.rows + rows, operations, machine)
    report.add(rows)


def _peers(
    folder: Path, batches: list[Batch], machine: Machine | None, report: Report
) -> dict[Batch, int]:
    """Returns the operations of each batch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    operations: dict[Batch, int] = {}
    for attention in image_peers.ATTENTIONS:
        if attention == "eager" and report.rows:
            continue  # the slowest
        try:
            args = (folder, attention, batches, torch.bfloat16, device)
            rows, counted = image_peers.encoder(*args)
        except Exception as error:
            print(f"transformers, {attention}: {describe(error)}", flush=True)
            continue
        operations |= counted
        _add(rows, operations, machine, report)
    return operations


def _runs(folder: str, backends: str, eager: str) -> list[tuple[str, bool]]:
    """Usable backends, and whether they run without graphs."""
    auto, usable = image_encoders.backends(folder, DTYPE)
    print(f"auto takes {auto}; usable here: {', '.join(usable)}", flush=True)
    named = [(name, False) for name in backends.split(",")]
    named += [(name, True) for name in eager.split(",") if name]
    chosen = [(auto if name == "auto" else name, is_eager) for name, is_eager in named]
    return [(name, is_eager) for name, is_eager in chosen if name in usable]


if __name__ == "__main__":
    main()
