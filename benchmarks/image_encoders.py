"""Vision encoders with random weights: images a second, beside the machine's matmul rate.

What an encoder must compute is counted in transformers' model of the same configuration.
"""

import gc
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from antiphon.attention.registry import BACKENDS
from antiphon.attention.selection import choose, refusal
from antiphon.attention.specs import encoder_spec
from antiphon.benchmarks.image_loads import random_images
from antiphon.benchmarks.machine import Machine, seconds
from antiphon.benchmarks.report import Row
from antiphon.config.options import resolve
from antiphon.encoder.graphs import NoGraph
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.image_halves import ImageHalf
from antiphon.runtime.device import Target

Batch = tuple[int, int, int]  # images, their height, their width


def backends(folder: str, options: dict[str, Any]) -> tuple[str, list[str]]:
    """The attention backend that `auto` takes for an encoder on this device, and all that can serve
    it."""
    config = resolve(folder, {"load_format": "dummy", **options})
    model = ModelConfig.load(config.model)
    assert model.encoder is not None
    target = Target.resolve(config.model, model.raw, model.family)
    spec = encoder_spec(model.encoder, target)
    on_cuda = target.device.type == "cuda"
    capability = torch.cuda.get_device_capability() if on_cuda else None
    usable = [name for name in BACKENDS if refusal(name, spec, capability) is None]
    return choose("encoder", "auto", [spec]), usable


def measure(
    folder: str,
    options: dict[str, Any],
    batches: Sequence[Batch],
    watch: Callable[[Row, Callable[[], Any]], None] | None = None,
) -> list[Row]:
    """Of one encoder, for each of `batches`.

    ms: from packed images on the device to hidden states. from_host_ms: from the arrays that the
    engine's frontend sends. `watch` gets each row, and the work of its `ms`.
    """
    config = resolve(folder, {"load_format": "dummy", **options})
    model = ModelConfig.load(config.model)
    assert isinstance(model.encoder, ImageHalf)
    began = time.perf_counter()
    runner = EncoderRunner(model, config)
    ready, rows = time.perf_counter() - began, []
    for count, height, width in batches:
        inputs = random_images(model.encoder, count, height, width)
        packed = runner.frontend.pack(inputs)
        has_graph = not isinstance(runner.choose_graph(packed), NoGraph)
        work = partial(runner.run, packed)
        took = seconds(work)
        rows.append(
            {
                "engine": "antiphon",
                "attention": runner.attention.name,
                "graph": "yes" if has_graph else "no",
                "images": count,
                "size": f"{width}x{height}",
                "ms": took * 1e3,
                "from_host_ms": seconds(partial(runner.encode, inputs)) * 1e3,
                "images/s": count / took,
                "ready_s": ready,
            }
        )
        if watch is not None:
            watch(rows[-1], work)
    del runner, work  # both hold the model
    release()
    return rows


def with_limits(
    rows: list[Row], operations: dict[Batch, int], machine: Machine | None
) -> list[Row]:
    """`rows` with the share of the matmul rate (without a `machine` it is not known), and how many
    times as fast as transformers' fastest at the same batch."""
    for row in rows:
        width, height = map(int, row["size"].split("x"))
        counted = operations.get((row["images"], height, width))
        if counted is not None and machine is not None:
            rate = 1e3 * counted / row["ms"]
            row["of_matmul_%"] = 100 * rate / machine.bf16_flops_per_second
        peers = [
            peer["ms"]
            for peer in rows
            if peer["engine"] == "transformers"
            and (peer["images"], peer["size"]) == (row["images"], row["size"])
        ]
        if peers and row["engine"] == "antiphon":
            row["times_transformers"] = min(peers) / row["ms"]
    return rows


def release() -> None:
    """Gives back what a model that is dropped held on the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
