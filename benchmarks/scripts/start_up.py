"""The first waits of a user: help, a usage error, the first text from a cold start, and Ctrl-C.

    python benchmarks/scripts/start_up.py [--model FOLDER] [--recording FILE] [--runs 3]
        [--output FILE]

Each figure belongs to one process, from its start to its first line of standard output, or to its
end if it prints none. CPU seconds include the processes that it waited for. The fastest of several
runs counts.
"""

import argparse
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from antiphon.benchmarks.machine import host
from antiphon.benchmarks.report import Row, table, write_json

WHISPER = Path(__file__).parents[2] / "examples" / "whisper_commands"
ANTIPHON = [sys.executable, "-m", "antiphon"]
INTERRUPT_AFTER = (0.5, 2.0, 4.0, 8.0)  # seconds: imports, checks, Ray's start, workers' start


@dataclass(frozen=True)
class Run:
    """Seconds from the start of a process."""

    first_line: float
    end: float
    cpu: float
    code: int


def run(*arguments: str) -> Run:
    """One command to its end. SystemExit if it fails."""
    before = _cpu_of_children()
    began = time.perf_counter()
    process = subprocess.Popen(
        [*ANTIPHON, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    first = time.perf_counter() - began
    _, errors = process.communicate(timeout=600)
    end = time.perf_counter() - began
    if process.returncode == 1:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{errors}")
    return Run(first if line else end, end, _cpu_of_children() - before, process.returncode)


def interrupt(after: float, *arguments: str) -> Row:
    """Sends SIGINT to a command that is starting, and counts what it leaves behind."""
    process = subprocess.Popen(
        [*ANTIPHON, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    time.sleep(after)
    descendants = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    began = time.perf_counter()
    _, errors = process.communicate(timeout=120)
    took = time.perf_counter() - began
    _, alive = psutil.wait_procs(descendants, timeout=2)
    return {
        "what": f"Ctrl-C after {after:g} s",
        "seconds": took,
        "exit code": process.returncode,
        "lines": len(errors.splitlines()),
        "processes left": len(alive),
    }


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(WHISPER / "model"))
    parser.add_argument("--recording", default=str(WHISPER / "recordings" / "call.wav"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    clip = ("transcribe", arguments.recording, "--model", arguments.model, "--quiet")
    commands = {
        "help": ("--help",),
        "help of transcribe": ("transcribe", "--help"),
        "usage error": ("transcribe", arguments.recording),
        "first text, --no-ray": (*clip, "--no-ray"),
        "first text, Ray": clip,
    }
    rows: list[Row] = []
    for name, command in commands.items():
        best = min(
            (run(*command) for _ in range(arguments.runs)), key=lambda measured: measured.first_line
        )
        rows.append(
            {
                "what": name,
                "seconds": best.first_line,
                "end": best.end,
                "cpu": best.cpu,
                "exit code": best.code,
            }
        )
    interrupts = [interrupt(after, *clip) for after in INTERRUPT_AFTER]
    print(f"{host()}, load average {os.getloadavg()[0]:.1f}")
    print(table(rows))
    print()
    print(table(interrupts))
    if arguments.output is not None:
        write_json(
            arguments.output,
            f"start-up, {arguments.model}",
            host(),
            {"load": os.getloadavg()},
            rows + interrupts,
        )


if __name__ == "__main__":
    main()
