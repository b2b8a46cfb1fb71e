"""The command line of `antiphon bench`."""

import asyncio
import contextlib
import gc
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import typer

from antiphon.benchmarks.report import Row, plot, plot_attention, table, write_json
from antiphon.benchmarks.service.command import serve
from antiphon.benchmarks.shapes import PUBLISHED, write_checkpoint
from antiphon.cli.arguments import Output
from antiphon.cli.command import PanelledCommand
from antiphon.cli.flags import ENGINE, with_flags
from antiphon.config.errors import ConfigurationError
from antiphon.config.options import resolve
from antiphon.families.checkpoint import ModelConfig

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Measure kernels, steps and whole engines."
)

# Weights are random unless the checkpoint's are requested: speed does not depend on them.
BENCH_ENGINE = replace(
    ENGINE,
    defaults={**ENGINE.defaults, "load_format": "dummy"},
    listed=("load_format", *ENGINE.listed),
)
app.command(cls=PanelledCommand)(serve)
ENCODER_STEPS, DECODER_STEPS = 20, 100  # that are measured of several ranks


class Steps(NamedTuple):
    """What `bench steps` measures: inputs of an encoder's batch, sequences of a decoder's step."""

    inputs: list[int]
    sequences: list[int]
    cross_tokens: int
    length: int


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help=f"Hub id, checkpoint folder, or with random weights one of {', '.join(PUBLISHED)}.",
    ),
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw the results here (PNG).")
]
Peer = Annotated[bool, typer.Option(help="Measure transformers too.")]


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:  # a load of no callers would never end
        raise ConfigurationError(f"'{text}' must be whole numbers above 0 with commas between them")
    return numbers


@contextlib.contextmanager
def _folder(model: str, load_format: str) -> Iterator[str]:
    """A checkpoint's folder. For a published name: a temporary folder with its configuration."""
    if model not in PUBLISHED:
        yield model
        return
    if load_format != "dummy":
        raise ConfigurationError(
            f"only the shapes of {model} are known here: "
            "use --load-format dummy, or give a hub id or a folder"
        )
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(PUBLISHED[model], Path(folder))
        yield folder


def _need_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise ConfigurationError("this measures a CUDA device, and torch sees none here")


def _report_engine(
    bench: str,
    model: str,
    info: dict[str, Any],
    options: dict[str, Any],
    rows: list[Row],
    output: Path | None,
) -> None:
    """Prints what an engine ran on and its table; writes both to `output`."""
    from antiphon.benchmarks.machine import device_name

    device = device_name()
    print(f"{model} on {device}: {info}")
    print(table(rows))
    if output is not None:
        write_json(output, f"{bench} {model}", device, {**options, "workers": info}, rows)


@app.command(cls=PanelledCommand)
def attention(
    preset: Annotated[
        Literal["all", "vit"],
        typer.Option(help="Sizes that no other flag gives. vit: of vision encoders alone."),
    ] = "all",
    batches: Annotated[str | None, typer.Option(help="Sequences. [1,2,16]")] = None,
    tokens: Annotated[str | None, typer.Option(help="Of each sequence. [512,1500,4096]")] = None,
    head_sizes: Annotated[str | None, typer.Option(help="[64,72,80,128]")] = None,
    output: Output = None,
    plot_file: Plot = None,
) -> None:
    """Every usable attention backend: TFLOP/s and share of the matmul rate, TB/s of decodes."""
    _need_gpu()
    import torch

    from antiphon.benchmarks import attention as kernels
    from antiphon.benchmarks.machine import measure

    texts = {"batches": batches, "tokens": tokens, "head_sizes": head_sizes}
    numbers: dict[str, Any] = {
        name: _numbers(text) for name, text in texts.items() if text is not None
    }
    sizes = kernels.PRESETS[preset]._replace(**numbers)
    machine = measure()
    print(machine)
    rows = kernels.full(machine, sizes, torch.bfloat16)
    print(table(rows))
    decodes = kernels.paged(machine, sizes, torch.bfloat16) if sizes.decodes else []
    if decodes:
        print(table(decodes))
    if output is not None:
        write_json(output, "attention", machine, {}, rows + decodes)
    if plot_file is not None:
        plot_attention(plot_file, machine.name, rows + decodes)


@app.command(cls=PanelledCommand)
@with_flags(BENCH_ENGINE)
def steps(
    engine: dict[str, Any],
    model: Model = "whisper-large-v3",
    batches: Annotated[
        str, typer.Option(help="Of encoder inputs, and of decoding sequences.")
    ] = "1,4,10",
    decodes: Annotated[str, typer.Option(help="Decoding sequences.")] = "1,8,32,64",
    cross_tokens: Annotated[
        int, typer.Option(min=1, help="Encoder tokens of each sequence.")
    ] = 1500,
    length: Annotated[int, typer.Option(min=1, help="Decoder tokens of each sequence.")] = 32,
    peer: Peer = True,
    output: Output = None,
) -> None:
    """One encoder forward and one decoder step, each beside what the machine's limits allow.

    With several ranks (--decoder-pipeline-parallel-size, ...), also on CPUs: a step of each stage,
    and for how much of it that waits for the others.
    """
    options = {"load_format": "dummy", **engine}
    sizes = Steps(_numbers(batches), _numbers(decodes), cross_tokens, length)
    with _folder(model, options["load_format"]) as folder:
        if any(half.parallel.num_ranks > 1 for half in resolve(folder, options).halves.values()):
            machine, tables = _steps_of_ranks(folder, options, sizes)
        else:
            _need_gpu()
            machine, tables = _steps_of_one(folder, options, sizes, peer)
    print(machine)
    for rows in filter(None, tables):
        print(table(rows))
    if output is not None:
        write_json(output, f"steps {model}", machine, options, [row for t in tables for row in t])


def _steps_of_ranks(
    folder: str, options: dict[str, Any], sizes: Steps
) -> tuple[Any, list[list[Row]]]:
    from antiphon.benchmarks import stages
    from antiphon.benchmarks.machine import device_name

    load = stages.Load(sizes.inputs, sizes.cross_tokens, sizes.length, steps=ENCODER_STEPS)
    steps = replace(load, batches=sizes.sequences, steps=DECODER_STEPS)
    rows = stages.measure(folder, options, load, steps)
    return device_name(), [*rows]


def _steps_of_one(
    folder: str, options: dict[str, Any], sizes: Steps, peer: bool
) -> tuple[Any, list[list[Row]]]:
    import torch

    from antiphon.benchmarks import peers
    from antiphon.benchmarks import steps as measured
    from antiphon.benchmarks.machine import measure
    from antiphon.runtime.device import Target

    machine, config = measure(), resolve(folder, options)
    described = ModelConfig.load(config.model)
    rows = measured.encoder(described, config, machine, sizes.inputs, sizes.cross_tokens)
    gc.collect()
    torch.cuda.empty_cache()
    if peer:
        target = Target.resolve(config.model, described.raw, described.family)
        rows += peers.encoder(Path(folder), sizes.inputs, sizes.cross_tokens, target.dtype)
        gc.collect()
        torch.cuda.empty_cache()
    decoder_rows = measured.decoder(
        described, config, machine, sizes.sequences, sizes.cross_tokens, sizes.length
    )
    return machine, [rows, decoder_rows]


@app.command(cls=PanelledCommand)
@with_flags(BENCH_ENGINE)
def throughput(
    engine: dict[str, Any],
    model: Model = "whisper-large-v3",
    requests: Annotated[int, typer.Option(min=1)] = 512,
    input_size: Annotated[float, typer.Option(help="Seconds of sound, or tokens of text.")] = 30,
    output_tokens: Annotated[int, typer.Option(min=1)] = 64,
    mixed: Annotated[
        bool,
        typer.Option(
            help="Lengths as in traffic: outputs log-normal around, texts up to the given size."
        ),
    ] = False,
    peer_batches: Annotated[
        str, typer.Option(help="Batch sizes of transformers; empty: leave it out.")
    ] = "32",
    output: Output = None,
    plot_file: Plot = None,
) -> None:
    """Offline: all requests at once, from raw samples or token ids to tokens."""
    from antiphon.benchmarks import local, peers, serving
    from antiphon.runtime.device import Target

    options = {"load_format": "dummy", **engine}
    load = serving.Load(requests, input_size, output_tokens, mixed)
    batches = _numbers(peer_batches) if peer_batches else []
    with _folder(model, options["load_format"]) as folder:
        if not options.pop("ray", True):
            own, info = local.throughput(folder, options, load)
        else:
            own, info = asyncio.run(serving.run_throughput(folder, options, load))
        rows: list[Row] = [{"engine": "antiphon", **own}]
        config = resolve(folder, options)
        described = ModelConfig.load(config.model)
        target = Target.resolve(config.model, described.raw, described.family)
        for batch in batches:
            rows.append(
                peers.throughput(Path(folder), load, batch, target.dtype, target.device.type)
            )
            rows[-1]["ratio"] = own["requests/s"] / rows[-1]["requests/s"]
    _report_engine("throughput", model, info, options, rows, output)
    if plot_file is not None:
        plot(plot_file, f"{model}, offline", rows, "engine", "requests/s")


@app.command(cls=PanelledCommand)
@with_flags(BENCH_ENGINE)
def latency(
    engine: dict[str, Any],
    model: Model = "whisper-large-v3",
    concurrency: Annotated[str, typer.Option(help="Requests in flight.")] = "1,8,32,128",
    requests: Annotated[int, typer.Option(help="At each concurrency.", min=1)] = 256,
    input_size: Annotated[
        float, typer.Option(help="Seconds of sound, tokens of text, or pixels of an image's side.")
    ] = 4.7,
    images: Annotated[int, typer.Option(min=1, help="Of each prompt that has any.")] = 1,
    output_tokens: Annotated[int, typer.Option(min=1)] = 20,
    output: Output = None,
    plot_file: Plot = None,
) -> None:
    """A closed loop: a fixed number of callers, each with one request in flight."""
    from antiphon.benchmarks import local, serving

    options = {"load_format": "dummy", **engine}
    load = serving.Load(requests, input_size, output_tokens, images=images)
    callers = _numbers(concurrency)
    with _folder(model, options["load_format"]) as folder:
        if not options.pop("ray", True):
            rows, info = local.latency(folder, options, load, callers)
        else:
            rows, info = asyncio.run(serving.run_latency(folder, options, load, callers))
    _report_engine("latency", model, info, options, rows, output)
    if plot_file is not None:
        plot(plot_file, f"{model}, closed loop", rows, "concurrency", "median_ms")
