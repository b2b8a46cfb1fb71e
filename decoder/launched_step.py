"""A step in flight."""

import msgspec
import torch

from antiphon.decoder.readouts import DeviceReadouts
from antiphon.decoder.sampling.beams import DeviceBeams, PackedBeams
from antiphon.decoder.sampling.logprobs import DeviceLogprobs
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.step_outputs import FinishedStep
from antiphon.runtime.waiting import WaitLimit
from antiphon.scheduler.plan import StepResult


class LaunchedStep(msgspec.Struct, frozen=True):
    """What a step gives, on its way to the host."""

    samples: Samples  # [sequences], on the host once `done`
    top: DeviceLogprobs | None  # of the sequences that ask
    readouts: DeviceReadouts | None
    done: torch.cuda.Event | None  # None where the device is the host
    refused: dict[int, Exception]  # by slot: settings that the device could not take
    limit: WaitLimit  # for `done`
    beams: DeviceBeams | PackedBeams | None = None
    accepted: torch.Tensor | None = None  # [rows] drafts that hold, on the host once `done`
    per_row: int = 1  # samples

    @classmethod
    def of(
        cls, finished: FinishedStep, refused: dict[int, Exception], limit: WaitLimit
    ) -> "LaunchedStep":
        """Starts to copy what is, or will be, on the device."""
        samples, top, readouts, beams, accepted, per_row = finished
        done = None if samples.packed.device.type == "cpu" else torch.cuda.Event()
        step = cls(
            samples.start_copy(),
            None if top is None else top.start_copy(),
            None if readouts is None else readouts.start_copy(),
            done,
            refused,
            limit,
            None if beams is None else beams.start_copy(),
            None if accepted is None else accepted.to("cpu", non_blocking=True),
            per_row,
        )
        if done is not None:
            done.record()
        return step

    def result(self) -> StepResult:
        """Waits for the step. Raises RankError if other ranks take too long."""
        if self.done is not None:
            self.limit.wait(self.done, "a decoder step")
        rows = self.samples.on_host()
        return StepResult(
            rows["token"],
            rows["logprob"],
            rows["restricted_logprob"],
            rows["rank"],
            None if self.top is None else self.top.on_host(),
            None if self.readouts is None else self.readouts.on_host(),
            None if self.beams is None else self.beams.on_host(),
            self.per_row,
            None if self.accepted is None else self.accepted.numpy(),
        )
