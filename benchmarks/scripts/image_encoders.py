"""Images a second of vision encoders at their published sizes, on every attention backend, with and
without CUDA graphs, beside transformers and the matmul rate of the same run.

    python benchmarks/scripts/image_encoders.py siglip-so400m-384 [--backends triton,torch_sdpa]
        [--batches 1x384x384,16x384x384] [--eager auto] [--output FILE.json]
    python benchmarks/scripts/image_encoders.py qwen2.5-vl-vision --small    # a rehearsal on a CPU

Random weights in bfloat16. FILE always has all there is so far; a backend that fails says so, and
the others go on.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from antiphon.benchmarks import image_encoders, image_peers
from antiphon.benchmarks.image_encoders import Batch
from antiphon.benchmarks.image_shapes import ENCODERS, small_encoder
from antiphon.benchmarks.machine import Machine, device_name, measure
from antiphon.benchmarks.report import Row, table, write_json
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


def parsed(batches: str) -> list[Batch]:
    made = []
    for text in batches.split(","):
        images, height, width = map(int, text.split("x"))
        made.append((images, height, width))
    return made


class Report:
    """Rows of one encoder; `output` always has them all."""

    def __init__(self, name: str, machine: Machine | None, output: Path | None) -> None:
        self.rows: list[Row] = []
        self.operations: dict[Batch, int] = {}
        self._name, self._machine, self._output = name, machine, output

    def add(self, rows: list[Row]) -> None:
        self.rows = image_encoders.with_limits(self.rows + rows, self.operations, self._machine)
        if self._output is not None:
            machine = self._machine or device_name()
            write_json(self._output, self._name, machine, {}, self.rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=list(ENCODERS))
    parser.add_argument("--backends", default="triton,flash_attn,flashinfer,torch_sdpa")
    parser.add_argument("--batches")
    parser.add_argument("--eager", default="auto", help="backends that also run without graphs")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    config = ENCODERS[arguments.name]
    config = small_encoder(config) if arguments.small else config
    default = BATCHES[arguments.name]
    if arguments.small:
        default = SMALL_SWIN if "depths" in config else default.split(",")[0]
    batches = parsed(arguments.batches or default)
    on_cuda = torch.cuda.is_available()
    machine = measure() if on_cuda else None  # on a CPU it is a rehearsal
    report = Report(arguments.name, machine, arguments.output)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(config, Path(folder))
        _peers(Path(folder), batches, report)
        _ours(folder, arguments.backends.split(","), arguments.eager.split(","), batches, report)
    print(f"{arguments.name} on {machine or device_name()}")
    print(table(report.rows))


def _peers(folder: Path, batches: list[Batch], report: Report) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for attention in image_peers.ATTENTIONS:
        if attention == "eager" and report.rows:
            continue  # the slowest
        try:
            args = (folder, attention, batches, torch.bfloat16, device)
            rows, operations = image_peers.encoder(*args)
        except Exception as error:
            print(f"transformers, {attention}: {describe(error)}", flush=True)
            continue
        report.operations |= operations
        report.add(rows)


def _ours(
    folder: str, backends: list[str], eager: list[str], batches: list[Batch], report: Report
) -> None:
    auto, usable = image_encoders.backends(folder, DTYPE)
    print(f"auto takes {auto}; usable here: {', '.join(usable)}", flush=True)
    runs = [(name, False) for name in backends] + [(name, True) for name in eager if name]
    for name, is_eager in runs:
        chosen = auto if name == "auto" else name
        if chosen not in usable:
            continue
        options = {"encoder_attention_backend": chosen, "enforce_eager": is_eager}
        try:
            report.add(image_encoders.measure(folder, {**DTYPE, **options}, batches))
        except Exception as error:
            print(f"{name}: {describe(error)}", flush=True)
            image_encoders.release()


if __name__ == "__main__":
    main()
