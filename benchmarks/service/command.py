"""`antiphon bench serve`: load on a running server."""

import asyncio
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from antiphon.benchmarks.report import Row, table, write_json
from antiphon.cli.arguments import Output
from antiphon.cli.flags import DataclassFlags, with_flags
from antiphon.cli.pairs import parse_pairs
from antiphon.config.errors import ConfigurationError, RequestFailed

USUAL_SIZES = {"audio": "10", "text": "50", "image": "384"}
USUAL_REQUESTS = 128
SHOWN_ERRORS = 5  # kinds of them, of each load


@dataclass(frozen=True)
class TargetFlags:
    server: Annotated[str, typer.Option(metavar="URL", help="Any server with OpenAI's API.")] = (
        "http://127.0.0.1:8000"
    )
    api_key: Annotated[str | None, typer.Option(metavar="KEY", help="Also ANTIPHON_API_KEY.")] = (
        None
    )
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="MODEL", help="Its name there. [the only one]"),
    ] = None
    endpoint: Annotated[
        str, typer.Option(help="transcriptions, translations, chat or completions.")
    ] = "transcriptions"
    field: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A field of each request; may be repeated."),
    ] = None
    stream: Annotated[bool, typer.Option(help="Ask for streams, which have a first text.")] = True
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Of one request.")] = 600.0


@dataclass(frozen=True)
class WorkFlags:
    input: Annotated[
        str | None,
        typer.Option(help="audio, image or text. [audio; of chat and completions text]"),
    ] = None
    size: Annotated[
        str | None,
        typer.Option(
            help="Of synthetic inputs: seconds, words, or pixels of a side. A number, "
            "uniform:LOW:HIGH, normal:MEAN:DEVIATION or lognormal:MEDIAN:SPREAD. [10, 50, 384]"
        ),
    ] = None
    output_tokens: Annotated[
        str | None, typer.Option(help="max_tokens of chat and completions, as --size has them.")
    ] = None
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Real inputs instead: lines {"audio": FILE, "text": REFERENCE}, or '
            '{"prompt": TEXT, "reference": TEXT, "image": FILE}.',
        ),
    ] = None
    requests: Annotated[
        int | None, typer.Option(min=1, help="Of each load. [the manifest's, else 128]")
    ] = None
    seed: Annotated[int, typer.Option(help="Of synthetic inputs and arrival times.")] = 17


@dataclass(frozen=True)
class LoadFlags:
    concurrency: Annotated[
        str, typer.Option(help="Closed loops: callers of each, with commas.")
    ] = "1,8,32"
    rate: Annotated[
        str | None,
        typer.Option(help="Open loops instead: requests a second of each, or a ramp FROM:TO."),
    ] = None
    burstiness: Annotated[
        float, typer.Option(help="Of open loops: 1 is Poisson, less is bursts, inf is even.")
    ] = 1.0
    warm_ups: Annotated[int, typer.Option(min=0, help="Requests before the first load.")] = 1


Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw the loads here (PNG).")
]


@with_flags(
    DataclassFlags("target", TargetFlags),
    DataclassFlags("work", WorkFlags),
    DataclassFlags("load", LoadFlags),
)
def serve(
    target: TargetFlags,
    work: WorkFlags,
    load: LoadFlags,
    output: Output = None,
    plot_file: Plot = None,
) -> None:
    """A running server as its clients see it: throughput, times to texts, word error rate.

    \b
    antiphon bench serve --server http://127.0.0.1:8000 --concurrency 1,32,128
    antiphon bench serve --rate 2:20 --size lognormal:8:0.6 --requests 500 --plot load.png
    antiphon bench serve --endpoint chat --model NAME --size 100 --output-tokens 64
    """
    from antiphon.benchmarks.service.figures import failures, plot_loads
    from antiphon.benchmarks.service.loads import Target, measure

    key = target.api_key or os.environ.get("ANTIPHON_API_KEY")
    of_server = Target(target.server, key, target.model, target.timeout)
    asks, arrivals = _asks(target, work), _arrivals(load, work.seed)
    loads = asyncio.run(measure(of_server, asks, arrivals, load.warm_ups))
    print(table(_upright([one.row for one in loads])))
    for one in loads:
        for count, error in failures(one.answers)[:SHOWN_ERRORS]:
            print(f"{one.label}: {count} failed: {error}", file=sys.stderr)
    if output is not None:
        options = {**asdict(target), **asdict(work), **asdict(load)}
        del options["api_key"]
        write_json(
            output, f"serve {target.endpoint}", target.server,
            {name: value if value is None else str(value) for name, value in options.items()},
            [one.row for one in loads],
        )  # fmt: skip
    if plot_file is not None:
        title = f"{target.server}, {target.endpoint}"
        plot_loads(plot_file, title, [(one.label, one.answers) for one in loads])
    if not any(one.row["completed"] for one in loads):
        raise RequestFailed("no request succeeded")


def _asks(target: TargetFlags, work: WorkFlags) -> list[Any]:
    """Raises ConfigurationError."""
    from antiphon.benchmarks.service import asks
    from antiphon.benchmarks.service.sizes import Sizes

    options = parse_pairs(target.field or [], "--field")
    form, kind = asks.checked_form(target.endpoint, work.input, options, target.stream)
    if work.manifest is not None:
        of_file = list(asks.of_manifest(form, kind, work.manifest))
        if not of_file:
            raise ConfigurationError(f"{work.manifest} is empty")
        return [of_file[number % len(of_file)] for number in range(work.requests or len(of_file))]
    sizes = Sizes.of(work.size or USUAL_SIZES[kind])
    lengths = None if work.output_tokens is None else Sizes.of(work.output_tokens)
    return asks.synthetic(form, kind, sizes, lengths, work.requests or USUAL_REQUESTS, work.seed)


def _arrivals(load: LoadFlags, seed: int) -> list[Any]:
    """Raises ConfigurationError."""
    from antiphon.benchmarks.service.arrivals import ClosedLoop, OpenLoop

    text = load.concurrency if load.rate is None else load.rate
    arrivals: list[Any] = []
    try:
        for part in text.split(","):
            if load.rate is None:
                arrivals.append(ClosedLoop(int(part)))
            else:
                first, _, last = part.partition(":")
                last_rate = float(last) if last else None
                arrivals.append(OpenLoop(float(first), last_rate, load.burstiness, seed))
    except ValueError:
        raise ConfigurationError(f"'{text}': give numbers with commas between them") from None
    return arrivals


def _upright(rows: list[Row]) -> list[Row]:
    """A line for each figure, a column for each load."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "load"))
    return [{"": name, **{row["load"]: row.get(name) for row in rows}} for name in names]
