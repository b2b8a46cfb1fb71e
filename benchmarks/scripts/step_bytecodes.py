"""Bytecodes of Python that the threads of an engine execute for each step of its decoder, by
function: the host's work, measured so that no other load of the machine disturbs it.

    python benchmarks/scripts/step_bytecodes.py [--requests 96] [--tokens 40] [--slots 32]

BART's shape with one small layer, on a CPU, so that the model's own Python is in it. On a GPU that
runs in graphs, which execute none.
"""

import argparse
import tempfile
import threading
from collections import Counter, defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from antiphon.benchmarks.local import LocalEngine
from antiphon.benchmarks.serving import Load
from antiphon.benchmarks.shapes import PUBLISHED, write_checkpoint

SMALL = {
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 1,
    "decoder_attention_heads": 1,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "vocab_size": 512,
}
INPUT_TOKENS = 20


class Bytecodes:
    """Counts those of all threads that start from now on, by thread and function, while `is_on`."""

    def __init__(self) -> None:
        self.by_thread: dict[str, Counter[str]] = defaultdict(Counter)
        self.is_on = False
        threading.settrace(self._enter)

    def _enter(self, frame: FrameType, event: str, value: Any) -> Any:
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        counts = self.by_thread[threading.current_thread().name]
        name = f"{Path(frame.f_code.co_filename).name}: {frame.f_code.co_qualname}"

        def count(frame: FrameType, event: str, value: Any) -> Any:
            if self.is_on and event == "opcode":
                counts[name] += 1
            return count

        return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=40, help="that each request generates")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--top", type=int, default=40, help="functions of each thread")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bytecodes = Bytecodes()
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint({**PUBLISHED["bart-large-cnn"], **SMALL}, Path(folder))
        options = {"load_format": "dummy", "max_num_seqs": arguments.slots, "device": "cpu"}
        load = Load(arguments.requests, INPUT_TOKENS, arguments.tokens)
        engine = LocalEngine(folder, options, load)
        try:
            sizes = load.sizes(False)
            engine.run(sizes[: arguments.slots], arguments.slots)
            before, bytecodes.is_on = engine.counters["steps"], True
            engine.run(sizes, len(sizes))
            bytecodes.is_on = False
            steps = engine.counters["steps"] - before
        finally:
            engine.close()
    print(f"{steps} steps, {arguments.requests / steps:.2f} admissions a step")
    for thread, counts in bytecodes.by_thread.items():
        print(f"{thread}: {counts.total() / steps:.0f} bytecodes a step")
        for name, number in counts.most_common(arguments.top):
            print(f"{number / steps:10.1f}  {name}")


if __name__ == "__main__":
    main()
