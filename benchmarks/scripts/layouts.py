"""What each layout of several GPUs gains over one GPU of the same machine: one table.

    python benchmarks/scripts/layouts.py [--rows decoder-tp,t5] [--output FILE.json]
        [--profile FOLDER] [--limit SECONDS]
    python benchmarks/scripts/layouts.py --tiny --device cpu     # a rehearsal, in two minutes

Shapes of whisper-large-v3 and flan-t5-xl, random weights. Rows that need more GPUs than there are
are left out. A row that fails, or that takes longer than `--limit` for one of its measurements,
says so, and the others go on. After each row FILE has all there is by then. `limit` is what the
bytes that each rank reads, or its arithmetic, need at the measured rates of the card; `reductions`
what the all-reduces of a step take by themselves. `--profile` writes a trace of each rank's steps
into FOLDER, and prints its longest kernels.
"""

import argparse
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from antiphon.benchmarks.layouts import FULL, TINY, Bench, Figures, Options
from antiphon.benchmarks.machine import host
from antiphon.benchmarks.report import Row, table, write_json
from antiphon.runtime.symmetric_memory import SUMMED_NORM_BYTES


@dataclass(frozen=True)
class Aim:
    """`most`: smaller is better."""

    ratio: float
    most: bool = False

    def __str__(self) -> str:
        return f"{'<=' if self.most else '>='} {self.ratio:g}x"

    def is_met(self, ratio: float) -> bool:
        return ratio <= self.ratio if self.most else ratio >= self.ratio


def row(what: str, unit: str, one: float, several: float, aim: Aim, **more: Any) -> Row:
    ratio = several / one
    return {
        "layout": what, "unit": unit, "one": one, "measured": several, "ratio": ratio,
        "aim": str(aim), "met": "yes" if aim.is_met(ratio) else "no", **more,
    }  # fmt: skip


def colocated(count: int = 1) -> Options:
    return {"placement": "colocated", "encoder_replicas": count, "decoder_replicas": count}


def clips_per_second(figures: Figures, load: str = "uniform") -> float:
    return float(figures[load]["requests/s"])


def replicas(bench: Bench) -> Iterator[Row]:
    one = clips_per_second(bench.offline("1 replica", 1, **colocated()))
    for count, aim in ((2, Aim(1.95)), (4, Aim(3.8))):
        if bench.gpus >= count:
            seen = bench.offline(f"{count} replicas", count, **colocated(count))
            what = f"{count} colocated replicas, offline"
            yield row(what, "clips/s", one, clips_per_second(seen), aim)


def step_row(bench: Bench, model: str, ranks: int, batch: int, what: str, aim: Aim) -> Row:
    """Of a decoder's step; the device's part of it where that is known."""
    one, several = bench.decoder(model, 1)[str(batch)], bench.decoder(model, ranks)[str(batch)]
    kind = "graph_s" if "graph_s" in several and "graph_s" in one else "step_s"
    card, reduces = bench.card(), bench.links(model, ranks)["reduce_s"]
    count = 3 * bench.size.layers[model]
    return row(
        what, "ms", 1e3 * one[kind], 1e3 * several[kind], aim,
        limit=1e3 * several["bytes"] / card.copy_bytes_per_second,
        reductions=1e3 * count * reduces[batch],
        with_host=1e3 * several["step_s"],
    )  # fmt: skip


def decoder_tp(bench: Bench) -> Iterator[Row]:
    many, one = bench.size.decodes
    for batch, aim in ((many, Aim(0.62, most=True)), (one, Aim(0.85, most=True))):
        what = f"decoder tp 2, step of {batch}, 1500 cross tokens"
        yield step_row(bench, "whisper", 2, batch, what, aim)


def encoder_tp(bench: Bench) -> Iterator[Row]:
    one, several = (bench.encoder(ranks)["1"] for ranks in (1, 2))
    limit = several["operations"] / bench.card().bf16_flops_per_second
    what, aim = "encoder tp 2, one clip", Aim(0.65, most=True)
    yield row(what, "ms", 1e3 * one["encode_s"], 1e3 * several["encode_s"], aim, limit=1e3 * limit)


def pp(bench: Bench) -> Iterator[Row]:
    one = clips_per_second(bench.offline("1 replica", 1, **colocated()))
    stages = bench.offline("pp 2", 2, placement="colocated", decoder_pipeline_parallel_size=2)
    yield row(
        "decoder pp 2, encoders beside it, offline",
        "clips/s",
        one,
        clips_per_second(stages),
        Aim(1.8),
    )
    shares = bench.offline("tp 2", 2, placement="colocated", decoder_tensor_parallel_size=2)
    seen = clips_per_second(shares), clips_per_second(stages)
    yield row("pp 2 against tp 2 (one), offline", "clips/s", *seen, Aim(1.0))


def apart(bench: Bench) -> Iterator[Row]:
    """Two replicas stand in the column of one GPU."""
    layout = {"placement": "disaggregated"}
    both, own = bench.offline("2 replicas", 2, **colocated(2)), bench.offline("apart", 2, **layout)
    for load, aim in (("uniform", Aim(0.9)), ("skewed", Aim(1.0))):
        seen = clips_per_second(both, load), clips_per_second(own, load)
        what = f"1 encoder + 1 decoder against 2 replicas (one), {load}"
        yield row(what, "clips/s", *seen, aim)
    figures = bench.arrivals("apart", **layout)
    alone, arriving = figures["alone"]["p50_ms"], figures["arriving"]["p95_ms"]
    aim = Aim(1.3, most=True)
    yield row("the same: p95 of a step while clips arrive, alone (one)", "ms", alone, arriving, aim)
    figures = bench.arrivals("2 replicas", **colocated(2))
    alone, arriving = figures["alone"]["p50_ms"], figures["arriving"]["p95_ms"]
    yield row("2 replicas: the same, to compare", "ms", alone, arriving, aim)


def t5(bench: Bench) -> Iterator[Row]:
    texts = bench.size.texts
    for ranks, rate, latency in (
        (2, Aim(1.5), Aim(0.75, most=True)),
        (4, Aim(2.2), Aim(0.6, True)),
    ):
        if bench.gpus < ranks:
            continue
        one, several = (bench.decoder("t5", n)[str(texts)]["step_s"] for n in (1, ranks))
        what = f"flan-t5-xl tp {ranks}, {texts} sequences"
        yield row(what, "tokens/s", texts / one, texts / several, rate)
        yield step_row(bench, "t5", ranks, 1, f"flan-t5-xl tp {ranks}, step of 1", latency)


ROWS: dict[str, Callable[[Bench], Iterator[Row]]] = {  # ranks first: then the engines share a Ray
    "decoder-tp": decoder_tp,
    "encoder-tp": encoder_tp,
    "t5": t5,
    "replicas": replicas,
    "pp": pp,
    "apart": apart,
}
GPUS = 2  # that every row needs


def run(bench: Bench, names: list[str], report: Callable[[list[Row]], None]) -> list[Row]:
    """Rows that fail have an error instead of figures."""
    rows: list[Row] = []
    for name in names:
        try:
            for result in ROWS[name](bench):
                rows.append(result)  # noqa: PERF402  # those before a failure count
        except Exception as error:
            traceback.print_exc()
            last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            rows.append({"layout": name, "met": f"failed: {last[0][:70]}"})
        report(rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default=",".join(ROWS), help="of " + ", ".join(ROWS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--limit", type=float, default=150.0, help="seconds of one measurement")
    parser.add_argument(
        "--norm-bytes", type=int, default=SUMMED_NORM_BYTES,
        help="of sums that norms make, over the number of other ranks",
    )  # fmt: skip
    parser.add_argument("--output", type=Path)
    parser.add_argument("--profile", type=Path)
    arguments = parser.parse_args()
    names = arguments.rows.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"no rows {unknown}")
    gpus = 4 if arguments.device == "cpu" else torch.cuda.device_count()
    if gpus < GPUS:
        parser.error(f"needs {GPUS} GPUs, and torch sees {gpus}; --device cpu --tiny rehearses it")
    with tempfile.TemporaryDirectory() as folder:
        size = TINY if arguments.tiny else FULL
        bench = Bench(size, arguments.device, gpus, arguments.limit, Path(folder))
        bench.norm_bytes = arguments.norm_bytes
        if arguments.profile is not None:
            arguments.profile.mkdir(parents=True, exist_ok=True)
            bench.trace = arguments.profile
        name = f"{gpus} x {torch.cuda.get_device_name()}" if torch.cuda.is_available() else host()

        def report(rows: list[Row]) -> None:
            if arguments.output is not None:
                more = {"tiny": arguments.tiny, "norm_bytes": bench.norm_bytes}
                more["measures"] = bench.known
                write_json(arguments.output, "layouts", name, more, rows)

        began = time.monotonic()
        try:
            rows = run(bench, [one for one in ROWS if one in names], report)
        finally:
            bench.close()
    for trace, kernels in bench.profiles.items():
        print(trace, json.dumps(kernels))
    print(f"{name}, {time.monotonic() - began:.0f} s")
    if "card" in bench.known:
        print(bench.known["card"])
    print({key: value for key, value in bench.known.items() if key.startswith("links")})
    print(table(rows))


if __name__ == "__main__":
    main()
