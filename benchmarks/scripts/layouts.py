"""What each layout of several GPUs gains over one GPU of the same machine: one table.

    python benchmarks/scripts/layouts.py [--rows decoder-tp,t5] [--output FILE.json]
        [--known FILE.json ...] [--profile FOLDER] [--limit SECONDS]
    python benchmarks/scripts/layouts.py --tiny --device cpu     # a rehearsal, in two minutes

Shapes of whisper-large-v3 and flan-t5-xl, random weights. Rows that need more GPUs than there are
are left out. A row that fails, or that takes longer than `--limit` for one of its measurements,
says so, and the others go on. After each row FILE has all there is by then. `--known`: files of
other runs on this machine, such as of two pairs of its GPUs; what they have is not measured again.

What bounds a row is beside it. Of ranks, as percent of what was measured: `bytes_%`, what a rank
reads at the measured rate of a copy; `flops_%`, its arithmetic at that of a matmul; `sums_%`, the
all-reduces of a step by themselves. Of engines: `gpus_%`, of the time in which a kernel ran, and
`cpu_%`, of one core, of the busiest process. `--profile` writes a trace of each rank's steps into
FOLDER, and prints its longest kernels.
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


@dataclass(frozen=True)
class Aim:
    """`most`: smaller is better."""

    ratio: float
    most: bool = False

    def __str__(self) -> str:
        return f"{'<=' if self.most else '>='} {self.ratio:g}x"

    def is_met(self, ratio: float) -> bool:
        return ratio <= self.ratio if self.most else ratio >= self.ratio


def row(what: str, unit: str, one: float, several: float, aim: Aim | None, **more: Any) -> Row:
    ratio = several / one
    judged: Row = {}
    if aim is not None:
        judged = {"aim": str(aim), "met": "yes" if aim.is_met(ratio) else "no"}
    shown = {"layout": what, "unit": unit, "one": one, "measured": several, "ratio": ratio}
    return {**shown, **judged, **more}


def colocated(count: int = 1) -> Options:
    return {"placement": "colocated", "encoder_replicas": count, "decoder_replicas": count}


def clips_per_second(figures: Figures, load: str = "uniform") -> float:
    return float(figures[load]["requests/s"])


def bound(figures: Figures, load: str = "uniform") -> Row:
    """Of an engine's load."""
    cpus, gpus = figures[load]["cpu_%"], figures[load]["gpu_%"]
    busiest = max(cpus, key=cpus.__getitem__)
    shown = {"gpus_%": "/".join(f"{percent:.0f}" for percent in gpus.values())}
    return {**shown, "cpu_%": f"{cpus[busiest]:.0f} {busiest}"}


def one_replica(bench: Bench) -> Figures:
    return bench.engine("1 replica", 1, **colocated())


def two_replicas(bench: Bench) -> Figures:
    return bench.engine("2 replicas", 2, streams=True, **colocated(2))


def replicas(bench: Bench) -> Iterator[Row]:
    one = clips_per_second(one_replica(bench))
    seen = two_replicas(bench)
    what = "colocated replicas, offline"
    yield row(f"2 {what}", "clips/s", one, clips_per_second(seen), Aim(1.95), **bound(seen))
    if bench.gpus >= 4:
        seen = bench.engine("4 replicas", 4, **colocated(4))
        yield row(f"4 {what}", "clips/s", one, clips_per_second(seen), Aim(3.8), **bound(seen))


def step_row(bench: Bench, model: str, ranks: int, batch: int, what: str, aim: Aim | None) -> Row:
    """Of a decoder's step; the device's part of it where that is known."""
    one, several = bench.decoder(model, 1)[str(batch)], bench.decoder(model, ranks)[str(batch)]
    return _step_row(bench, model, ranks, batch, what, aim, one, several)


def _step_row(
    bench: Bench, model: str, ranks: int, batch: int, what: str, aim: Aim | None,
    one: Figures, several: Figures,
) -> Row:  # fmt: skip
    kind = "graph_s" if "graph_s" in several and "graph_s" in one else "step_s"
    card, reduces = bench.card(), bench.links(model, ranks)["reduce_s"]
    sums = SUMS * bench.size.layers[model] * reduces[str(batch)]
    return row(
        what, "ms", 1e3 * one[kind], 1e3 * several[kind], aim,
        with_host=1e3 * several["step_s"],
        **{
            "bytes_%": 100 * several["bytes"] / card.copy_bytes_per_second / several[kind],
            "sums_%": 100 * sums / several[kind],
        },
    )  # fmt: skip


def decoder_tp(bench: Bench) -> Iterator[Row]:
    aims = Aim(0.62, most=True), Aim(0.85, most=True)
    for ranks in ranks_of(bench):
        for batch, aim in zip(bench.size.decodes, aims, strict=True):
            what = f"decoder tp {ranks}, step of {batch}, 1500 cross tokens"
            yield step_row(bench, "whisper", ranks, batch, what, aim if ranks == 2 else None)


def ranks_of(bench: Bench) -> list[int]:
    return [ranks for ranks in (2, 4) if ranks <= bench.gpus]


def encoder_tp(bench: Bench) -> Iterator[Row]:
    one = bench.encoder(1)["1"]
    for ranks in ranks_of(bench):
        several = bench.encoder(ranks)["1"]
        limit = several["operations"] / bench.card().bf16_flops_per_second
        what, aim = f"encoder tp {ranks}, one clip", Aim(0.65, most=True) if ranks == 2 else None
        seconds = one["encode_s"], several["encode_s"]
        share = {"flops_%": 100 * limit / several["encode_s"]}
        yield row(what, "ms", 1e3 * seconds[0], 1e3 * seconds[1], aim, **share)


def norms(bench: Bench) -> Iterator[Row]:
    """Sums left to the norms behind them, against sums apart from them (one)."""
    for ranks in ranks_of(bench):
        for model, (many, few) in (
            ("whisper", bench.size.decodes),
            ("t5", (bench.size.texts, 1)),
        ):
            apart, inside = (bench.decoder(model, ranks, size) for size in (0, IN_NORMS))
            for batch in (many, few):
                what = f"{model} tp {ranks}, step of {batch}, sums in norms (one: apart)"
                both = apart[str(batch)], inside[str(batch)]
                yield _step_row(bench, model, ranks, batch, what, Aim(1.0, most=True), *both)


def pp(bench: Bench) -> Iterator[Row]:
    one = clips_per_second(one_replica(bench))
    stages = bench.engine("pp 2", 2, placement="colocated", decoder_pipeline_parallel_size=2)
    what = "decoder pp 2, encoders beside it, offline"
    yield row(what, "clips/s", one, clips_per_second(stages), Aim(1.8), **bound(stages))
    shares = bench.engine("tp 2", 2, placement="colocated", decoder_tensor_parallel_size=2)
    what = "decoder tp 2, encoders beside it, offline"
    yield row(what, "clips/s", one, clips_per_second(shares), None, **bound(shares))
    seen = clips_per_second(shares), clips_per_second(stages)
    yield row("pp 2 against tp 2 (one), offline", "clips/s", *seen, Aim(1.0))


def apart(bench: Bench) -> Iterator[Row]:
    """Two replicas stand in the column of one GPU."""
    own = bench.engine("apart", 2, streams=True, placement="disaggregated")
    aim = Aim(1.3, most=True)
    what = "1 encoder + 1 decoder, p95 of a step while clips arrive (one: p50 alone)"
    yield row(what, "ms", own["alone"]["p50_ms"], own["arriving"]["p95_ms"], aim)
    both = two_replicas(bench)
    what = "2 replicas: the same, to compare"
    yield row(what, "ms", both["alone"]["p50_ms"], both["arriving"]["p95_ms"], None)
    for load, aim in (("uniform", Aim(0.9)), ("skewed", Aim(1.0))):
        seen = clips_per_second(both, load), clips_per_second(own, load)
        what = f"1 encoder + 1 decoder against 2 replicas (one), {load}"
        yield row(what, "clips/s", *seen, aim, **bound(own, load))


def t5(bench: Bench) -> Iterator[Row]:
    texts = bench.size.texts
    aims = {2: (Aim(1.5), Aim(0.75, most=True)), 4: (Aim(2.2), Aim(0.6, most=True))}
    for ranks in ranks_of(bench):
        rate, latency = aims[ranks]
        one, several = (bench.decoder("t5", n)[str(texts)]["step_s"] for n in (1, ranks))
        what = f"flan-t5-xl tp {ranks}, {texts} sequences"
        yield row(what, "tokens/s", texts / one, texts / several, rate)
        for batch, aim in ((texts, None), (1, latency)):
            yield step_row(
                bench, "t5", ranks, batch, f"flan-t5-xl tp {ranks}, step of {batch}", aim
            )


ROWS: dict[str, Callable[[Bench], Iterator[Row]]] = {  # ranks first: then the engines share a Ray
    "decoder-tp": decoder_tp,
    "encoder-tp": encoder_tp,
    "t5": t5,
    "norms": norms,
    "apart": apart,
    "replicas": replicas,
    "pp": pp,
}
GPUS = 2  # that every row needs
SUMS = 3  # of a decoder's layer: self-attention, cross-attention, feed-forward
IN_NORMS = 512 << 10  # bytes of a sum that a norm makes, over the number of other ranks


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
    parser.add_argument("--gpus", type=int, help="at most; on CPUs, ranks")
    parser.add_argument("--known", type=Path, nargs="*", default=[])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--profile", type=Path)
    arguments = parser.parse_args()
    names = arguments.rows.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"no rows {unknown}")
    gpus = 4 if arguments.device == "cpu" else torch.cuda.device_count()
    gpus = min(gpus, arguments.gpus or gpus)
    if gpus < GPUS:
        parser.error(f"needs {GPUS} GPUs, and torch sees {gpus}; --device cpu --tiny rehearses it")
    with tempfile.TemporaryDirectory() as folder:
        size = TINY if arguments.tiny else FULL
        bench = Bench(size, arguments.device, gpus, arguments.limit, Path(folder))
        for path in arguments.known:
            bench.known |= json.loads(path.read_text())["options"]["measures"]
        if arguments.profile is not None:
            arguments.profile.mkdir(parents=True, exist_ok=True)
            bench.trace = arguments.profile
        name = f"{gpus} x {torch.cuda.get_device_name()}" if torch.cuda.is_available() else host()

        def report(rows: list[Row]) -> None:
            if arguments.output is not None:
                more = {"tiny": arguments.tiny, "measures": bench.known}
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
