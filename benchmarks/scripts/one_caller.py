"""What one caller of an engine through Ray waits for: its start, and request after request.

    python benchmarks/scripts/one_caller.py BEFORE AFTER [--pairs 5] [--requests 40]

BEFORE and AFTER are checkouts; each is measured in processes of its own, in turn, so that both see
the same machine. Prints the median of each figure, and of the ratios of the pairs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
WHISPER, T5 = EXAMPLES / "whisper_commands", EXAMPLES / "t5_numbers" / "model"
ONE = "--one"


def measure(requests: int) -> dict[str, float]:
    """Seconds, of the engine that this process imports; medians over `requests`."""
    from antiphon import Engine

    figures: dict[str, float] = {}
    began = time.perf_counter()
    with Engine(str(T5), num_threads=1) as engine:
        figures["ready, T5"] = time.perf_counter() - began
        texts = [f"in words: {number}" for number in range(1000, 1000 + requests)]
        figures["a text"] = median_of(lambda text: engine.generate(text, use_tqdm=False), texts)
        began = time.perf_counter()
    figures["closed"] = time.perf_counter() - began
    began = time.perf_counter()
    with Engine(str(WHISPER / "model"), num_threads=1) as engine:
        figures["ready, Whisper"] = time.perf_counter() - began
        clips = [WHISPER / "recordings" / name for name in ("call.wav", "wecker.wav")]
        figures["a clip"] = median_of(engine.transcribe, [*map(str, clips)] * (requests // 4))
    return figures


def median_of(call: object, inputs: list[str]) -> float:
    seconds = []
    for value in inputs:
        began = time.perf_counter()
        call(value)  # type: ignore[operator]
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def measured(checkout: str, requests: int) -> dict[str, float]:
    """By a process that imports `checkout` as antiphon."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "antiphon").symlink_to(Path(checkout).resolve())
        done = subprocess.run(
            [sys.executable, __file__, ONE, str(requests)],
            env={**os.environ, "PYTHONPATH": folder},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--requests", type=int, default=40)
    arguments = parser.parse_args()
    pairs = [
        [measured(checkout, arguments.requests) for checkout in (arguments.before, arguments.after)]
        for _ in range(arguments.pairs)
    ]
    rows = [
        {
            "what": name,
            "before, s": statistics.median(before[name] for before, _ in pairs),
            "after, s": statistics.median(after[name] for _, after in pairs),
            "after / before": statistics.median(
                after[name] / before[name] for before, after in pairs
            ),
        }
        for name in pairs[0][0]
    ]
    from antiphon.benchmarks.machine import host  # not above: an old checkout may lack it
    from antiphon.benchmarks.report import table

    print(f"{host()}, load average {os.getloadavg()[0]:.1f}, {len(pairs)} pairs")
    print(table(rows))


if __name__ == "__main__":
    if sys.argv[1:2] == [ONE]:
        print(json.dumps(measure(int(sys.argv[2]))))
    else:
        main()
