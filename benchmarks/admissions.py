"""What sequences cost the host as they come and go, in microseconds a step: no model, no device.

python -m antiphon.benchmarks.admissions [sequences] [steps]

As many sequences run as there are slots, each of them a few dozen tokens; others wait, so that
several end and begin with every step. `scheduler`: its methods by themselves. `replica`: all that
a decoder replica does around the layers of a small model, whose layers and sampling are left out.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from antiphon.benchmarks.shapes import PUBLISHED, write_checkpoint
from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.options import resolve
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.replica import DecoderReplica
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.handoff import HiddenStates
from antiphon.kv.pages import PagePool
from antiphon.scheduler.encode_work import EncodeCommand
from antiphon.scheduler.limits import Limits
from antiphon.scheduler.plan import StepPlan, StepResult
from antiphon.scheduler.request import Media, Request, RequestId
from antiphon.scheduler.scheduler import Scheduler

SEQUENCES, STEPS, WARM_UP = 128, 2048, 64
WAITING = 32  # beside those that run
PAGE, CROSS_LEN = 16, 512
SHORTEST, LONGEST = 16, 48  # tokens of an answer
SMALL = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "vocab_size": 64,
    "max_position_embeddings": 128,
}


class Arrivals:
    """Keeps `scheduler` busy: so many requests are open, each for an input of its own."""

    def __init__(self, scheduler: Scheduler, open_requests: int, cross_len: int) -> None:
        self.scheduler, self._open, self.cross_len = scheduler, open_requests, cross_len
        self.count = 0
        self._lengths = np.random.default_rng(0).integers(SHORTEST, LONGEST, 4096).tolist()
        self._params, self._rules = SamplingParams(), DecodingRules(stop_ids=(1,))

    def add(self) -> None:
        while len(self.scheduler.requests) < self._open:
            length = self._lengths[self.count % len(self._lengths)]
            media = Media(str(self.count), "text", self.cross_len)
            self.scheduler.add(
                Request(
                    RequestId("bench", self.count), np.array([2]), (media,), self._params,
                    self._rules, length, seed=0,
                )
            )  # fmt: skip
            self.count += 1


class SchedulerWork:
    """A scheduler alone, whose results come one step late."""

    def __init__(self, sequences: int) -> None:
        limits = Limits(
            sequences, 1 << 30, LONGEST + 2, CROSS_LEN, sequences * CROSS_LEN, 1 << 30, PAGE
        )
        pages = 2 * sequences * (CROSS_LEN + LONGEST + 2 * PAGE) // PAGE
        self.scheduler = Scheduler(limits, PagePool(pages))
        self.arrivals = Arrivals(self.scheduler, sequences + WAITING, CROSS_LEN)
        self._tokens, self._logprobs = np.full(sequences, 7), np.zeros(sequences, np.float32)
        self._last: StepPlan | None = None

    def step(self) -> None:
        self.arrivals.add()
        while commands := self.scheduler.next_encodes():
            for command in commands:
                self.scheduler.encoded(command.media.key)
        plan, last = self.scheduler.step(), self._last
        if last is not None:
            rows = slice(len(last.slots))
            result = StepResult(self._tokens[rows], self._logprobs[rows], self._logprobs[rows])
            self.scheduler.postprocess(last, result)
        self._last = plan
        self.scheduler.encodes.pop_unwanted()
        self.scheduler.outputs.pop()


class ReplicaWork:
    """A replica of a small model on a CPU, without what a captured graph holds."""

    def __init__(self, sequences: int, folder: Path, cross_len: int = 16) -> None:
        options = {"device": "cpu", "load_format": "dummy", "max_num_seqs": sequences}
        config = resolve(str(folder), options)
        model = ModelConfig.load(config.model)
        self._asked: list[EncodeCommand] = []
        self.replica = DecoderReplica(model, config, self._asked.extend, lambda _: None)
        runner = self.replica.runner
        runner._run_and_sample = lambda *_: None  # type: ignore[method-assign]
        runner.inputs._lay_out_on_host = lambda _: None  # type: ignore[assignment,method-assign]
        self.arrivals = Arrivals(self.replica.scheduler, sequences + WAITING, cross_len)
        self._states = torch.zeros(cross_len, model.decoder.hidden_size)

    def step(self) -> None:
        self.arrivals.add()
        self.replica.step()
        if self._asked:
            keys = tuple(command.media.key for command in self._asked)
            self._asked.clear()
            lengths = (len(self._states),) * len(keys)
            states = self._states.repeat(len(keys), 1)
            self.replica.receive_hidden(HiddenStates(keys, lengths, states))


def microseconds(step: Callable[[], None], steps: int) -> float:
    """Of this thread's processor, the median of single steps."""
    for _ in range(WARM_UP):
        step()
    took = []
    for _ in range(steps):
        began = time.thread_time_ns()
        step()
        took.append(time.thread_time_ns() - began)
    return float(np.median(took)) / 1000


def main() -> None:
    sequences, steps = (
        int(sys.argv[i]) if len(sys.argv) > i else default
        for i, default in ((1, SEQUENCES), (2, STEPS))
    )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint({**PUBLISHED["bart-large-cnn"], **SMALL}, Path(folder))
        works: dict[str, SchedulerWork | ReplicaWork] = {
            "scheduler": SchedulerWork(sequences),
            "replica": ReplicaWork(sequences, Path(folder)),
        }
        for name, work in works.items():
            took = microseconds(work.step, steps)
            admitted = work.arrivals.count / (steps + WARM_UP)
            print(f"{name}: {took:.0f} us a step, {admitted:.1f} admissions in each")


if __name__ == "__main__":
    main()
