"""Whole engines of two checkouts on one machine, load by load, in turns: one table of ratios.

    python benchmarks/scripts/before_after.py BEFORE AFTER [--loads "one caller,BART"]
        [--rounds 2] [--limit 240] [--no-ray] [--output FILE.json]
    python benchmarks/scripts/before_after.py . . --loads tiny --no-ray    # a rehearsal

Shapes of published models, random weights, made for a GPU. Each measurement is a process of its
own, and the checkouts take turns, so that both see the same machine. After each one FILE has all
there is by then; a measurement that fails or takes longer than `--limit` seconds says so, and the
others go on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from antiphon.benchmarks.report import Row, table

FP8 = ("--quantization", "fp8", "--kv-cache-dtype", "fp8")


@dataclass(frozen=True)
class Load:
    """A command of `antiphon bench`, and which of its figures is told."""

    figure: str
    command: tuple[str, ...]

    @property
    def is_time(self) -> bool:
        return self.figure.endswith("_ms")


def callers(count: int, requests: int) -> tuple[str, ...]:
    return ("latency", "--concurrency", str(count), "--requests", str(requests), *FP8)


def offline(model: str, *more: str) -> tuple[str, ...]:
    return ("throughput", "--model", model, "--peer-batches", "", *more)


TEXT = ("--input-size", "350", "--output-tokens", "128", "--max-num-seqs", "128")
LOADS = {
    "one caller": Load("median_ms", callers(1, 128)),
    "32 callers": Load("requests/s", callers(32, 512)),
    "128 callers": Load("requests/s", callers(128, 1024)),
    "offline": Load("requests/s", offline("whisper-large-v3", *FP8)),
    "BART": Load("requests/s", offline("bart-large-cnn", *TEXT)),
    "T5-XL": Load("requests/s", offline("flan-t5-xl", *TEXT)),
    "tiny": Load(
        "requests/s",
        offline("flan-t5-base", "--requests", "4", "--input-size", "8", "--output-tokens", "4"),
    ),
}


class Measured:
    """Figures by load, "before" and "after"; `output` always has them all."""

    def __init__(self, output: Path | None) -> None:
        self.figures: dict[str, dict[str, list[float]]] = {}
        self.failures: list[str] = []
        self._output = output

    def add(self, load: str, side: str, figure: float | str) -> None:
        sides = self.figures.setdefault(load, {"before": [], "after": []})
        if isinstance(figure, str):
            self.failures.append(f"{load}, {side}: {figure}")
        else:
            sides[side].append(figure)
        print(load, side, figure, flush=True)
        if self._output is not None:
            content = {"rows": self.rows(), "figures": self.figures, "failures": self.failures}
            self._output.write_text(json.dumps(content, indent=1))

    def rows(self) -> list[Row]:
        """Medians; a change above 0 is for the better."""
        rows: list[Row] = []
        for name, sides in self.figures.items():
            if not all(sides.values()):
                continue
            before, after = (statistics.median(sides[side]) for side in ("before", "after"))
            better = before / after if LOADS[name].is_time else after / before
            row = {"load": name, "figure": LOADS[name].figure, "before": before, "after": after}
            rows.append({**row, "change, %": 100 * (better - 1)})
        return rows


def measure(checkout: Path, load: Load, limit: float, more: list[str]) -> float | str:
    """The figure, or why there is none. By a process that imports `checkout` as antiphon."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "antiphon").symlink_to(checkout.resolve())
        output = Path(folder) / "rows.json"
        paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-m", "antiphon", "bench", *load.command, *more]
        try:
            done = subprocess.run(
                [*command, "--output", str(output)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=limit,
            )
        except subprocess.TimeoutExpired:
            return f"took longer than {limit:g} s"
        if done.returncode:
            return f"exit code {done.returncode}: {done.stdout.strip()[-300:]}"
        return float(json.loads(output.read_text())["rows"][0][load.figure])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    all_loads = ",".join(name for name in LOADS if name != "tiny")
    parser.add_argument("--loads", default=all_loads, help=f"of {', '.join(LOADS)}")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limit", type=float, default=240, help="seconds of one measurement")
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    measured = Measured(arguments.output)
    sides = {"before": arguments.before, "after": arguments.after}
    for turn in range(arguments.rounds):
        for name in arguments.loads.split(","):
            for side in list(sides)[:: 1 if turn % 2 == 0 else -1]:
                more = ["--no-ray"] if arguments.no_ray else []
                figure = measure(sides[side], LOADS[name], arguments.limit, more)
                measured.add(name, side, figure)
    print(table(measured.rows()))
    for failure in measured.failures:
        print(failure)


if __name__ == "__main__":
    main()
