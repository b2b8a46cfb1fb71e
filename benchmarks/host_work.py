"""What the host computes for one step of a decoder, in microseconds: no model, no device.

python -m antiphon.benchmarks.host_work [sequences]

In the lines on sampling, a vocabulary of few words stands for what the host does around the rules:
with torch's operations every launch, as without graphs. Ranks that share the vocabulary exchange
with themselves, so nothing waits and nothing travels.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.page_tables import PageTables
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.sampling.settings import SettingsTable
from antiphon.decoder.state import Slots
from antiphon.decoder.step_inputs import InputBuffer, InputLimits
from antiphon.decoder.step_tensors import StepShape
from antiphon.kernels.formats import ROW_NUMBERS
from antiphon.kv.pages import PagePool
from antiphon.layers.shard import Shard
from antiphon.runtime.groups import Alone
from antiphon.scheduler.limits import Limits
from antiphon.scheduler.plan import Admission, StepPlan, StepResult
from antiphon.scheduler.request import Media, Request, RequestId
from antiphon.scheduler.scheduler import Scheduler

PAGE, CROSS_LEN, STEPS = 16, 1500, 60
WORDS = 64  # of the vocabulary, in sampling


class HostWork:
    """`sequences` running sequences that have `length` tokens, and the host's part of their steps
    as a GPU leaves it to the host, results one step late."""

    def __init__(self, sequences: int, length: int) -> None:
        self.sequences, max_len = sequences, length + 2 * STEPS
        limits = Limits(sequences, 1 << 30, max_len, CROSS_LEN, 1 << 30, 1 << 30, PAGE)
        pages = sequences * (max_len + CROSS_LEN + 2 * PAGE) // PAGE
        self.scheduler = Scheduler(limits, PagePool(pages))
        tables = PageTables(
            sequences + 1, max_len // PAGE + 1, CROSS_LEN // PAGE + 1, pages, torch.device("cpu")
        )
        tokens = torch.zeros(sequences + 1, max_len + 1, dtype=torch.int64)
        self.inputs = InputBuffer(
            InputLimits(sequences, sequences, PAGE, sequences, pages), tables, tokens
        )
        self.inputs._lay_out_on_host = lambda tensors: None  # type: ignore[method-assign]
        self.settings = SettingsTable(sequences + 1)
        self.shape = StepShape(sequences, sequences, 1, max_len, CROSS_LEN)
        self.result = StepResult(
            np.full(sequences, 7), np.zeros(sequences, np.float32), np.zeros(sequences, np.float32)
        )
        self._admit(length)
        self.last = self._plan()

    def _admit(self, length: int) -> None:
        for number in range(self.sequences):
            self.scheduler.add(
                Request(
                    RequestId("bench", number),
                    np.arange(5, 5 + length),
                    (Media(str(number), "text", CROSS_LEN, None),),
                    SamplingParams(),
                    DecodingRules(stop_ids=(1,)),
                    2 * STEPS,
                    seed=0,
                )
            )
        while commands := self.scheduler.next_encodes():
            for command in commands:
                self.scheduler.encoded(command.media.key)
        plan = self._plan()
        self.inputs.tables.admit(plan.admissions)
        self.scheduler.postprocess(plan, self.result)

    def _plan(self) -> StepPlan:
        plan = self.scheduler.step()
        assert plan is not None
        return plan

    def stages(self) -> dict[str, Callable[[], object]]:
        """One step: what its parts are called, and how they are run, in order."""
        plans: list[StepPlan] = []

        def settle() -> None:
            self.scheduler.postprocess(self.last, self.result)
            self.last = plans.pop()

        return {
            "next_encodes": self.scheduler.next_encodes,
            "step": lambda: plans.append(self._plan()),
            "fill": lambda: self.inputs.fill(plans[0], self.shape),
            "asking": lambda: [
                self.settings.rows_asking(group, plans[0].slots) for group in self.settings._asking
            ],
            "postprocess": settle,
            "outputs": self.scheduler.outputs.pop,
        }

    def microseconds(self, steps: int = STEPS) -> dict[str, float]:
        """The median of each part; `steps`: no more than STEPS in all calls together."""
        return _medians(self.stages(), steps)


class SamplingWork:
    """Steps of `sequences` rows that decode greedily under `params`, as each of `ranks` does them
    on a CPU."""

    def __init__(self, sequences: int, ranks: int, params: SamplingParams) -> None:
        shard = Shard(_Echo(ranks))
        words, device = shard.vocabulary(WORDS), torch.device("cpu")
        slots = Slots(sequences, STEPS, WORDS, device, vocabulary=words)
        tokens, rules = np.array([1, 2]), DecodingRules(stop_ids=(1,), suppress=(3,))
        slots.admit(
            [Admission(slot, tokens, 1, STEPS, slot, params, rules) for slot in range(sequences)]
        )
        self._sampler = Sampler(slots, None, shard)
        self._rows = np.arange(sequences), np.full(sequences, len(tokens))
        self._on_device = torch.from_numpy(self._rows[0]), torch.from_numpy(self._rows[1])
        self._logits = torch.randn(sequences, words.count)
        self._samples = Samples.empty(sequences, device)

    def _greedy(self) -> None:
        features = self._sampler.features(self._rows[0])
        self._sampler.greedy(self._logits, *self._on_device, self._samples, features)

    def _finish(self) -> None:
        self._sampler.finish(self._logits, *self._rows, self._samples)

    def microseconds(self, steps: int = STEPS) -> dict[str, float]:
        """The median of each part: what a graph holds, and what comes behind it."""
        return _medians({"greedy": self._greedy, "finish": self._finish}, steps)


class _Echo(Alone):
    """One of `size` ranks that all say what this one says."""

    def __init__(self, size: int) -> None:
        self.size = size

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(self.size, *x.shape).contiguous()


def _medians(stages: dict[str, Callable[[], object]], steps: int) -> dict[str, float]:
    """Microseconds that each of `stages` takes, run in order, `steps` times."""
    took: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(steps):
        for name, run in stages.items():
            began = time.perf_counter()
            run()
            took[name].append((time.perf_counter() - began) * 1e6)
    return {name: float(np.median(times)) for name, times in took.items()}


def _print_took(what: str, took: dict[str, float]) -> None:
    parts = ", ".join(f"{name} {value:.0f}" for name, value in took.items())
    print(f"{what}: {sum(took.values()):.0f} us ({parts})")


def main() -> None:
    sequences = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    for length in (4, 400, 4000):
        took = HostWork(sequences, length).microseconds()
        _print_took(f"{sequences} sequences of {length} tokens", took)
    for name, params in (
        ("greedy", SamplingParams()),
        ("drawn", SamplingParams(temperature=1.0)),
        ("greedy with log-probabilities", SamplingParams(logprobs=1)),
    ):
        for ranks in (1, 2, 4):
            took = SamplingWork(sequences, ranks, params).microseconds()
            _print_took(f"{sequences} rows, {name}, {ranks} ranks share the words", took)
    print(f"exchanged: {ROW_NUMBERS * 4 * sequences} bytes of each rank, if all rows are greedy")


if __name__ == "__main__":
    main()
