"""What the host computes for one step of a decoder, in microseconds: no model, no device.

python -m antiphon.benchmarks.host_work [sequences]
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.page_tables import PageTables
from antiphon.decoder.sampling.settings import SettingsTable
from antiphon.decoder.step_inputs import InputBuffer, InputLimits
from antiphon.decoder.step_tensors import StepShape
from antiphon.kv.pages import PagePool
from antiphon.scheduler.limits import Limits
from antiphon.scheduler.plan import StepPlan, StepResult
from antiphon.scheduler.request import Media, Request, RequestId
from antiphon.scheduler.scheduler import Scheduler

PAGE, CROSS_LEN, STEPS = 16, 1500, 60


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
        for command in self.scheduler.next_encodes():
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
        stages = self.stages()
        took: dict[str, list[float]] = {name: [] for name in stages}
        for _ in range(steps):
            for name, run in stages.items():
                began = time.perf_counter()
                run()
                took[name].append((time.perf_counter() - began) * 1e6)
        return {name: float(np.median(times)) for name, times in took.items()}


def main() -> None:
    sequences = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    for length in (4, 400, 4000):
        took = HostWork(sequences, length).microseconds()
        parts = ", ".join(f"{name} {value:.0f}" for name, value in took.items())
        print(f"{sequences} sequences of {length} tokens: {sum(took.values()):.0f} us ({parts})")


if __name__ == "__main__":
    main()
