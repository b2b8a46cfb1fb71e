"""What a step gives: logits, samples and readouts, in tensors of fixed addresses, which
graphs write; and the work that remains behind a graph."""

from typing import NamedTuple

import numpy as np
import torch

from antiphon.decoder.models.interface import DecoderModel
from antiphon.decoder.readouts import DeviceReadouts
from antiphon.decoder.sampling.beams import DeviceBeams, PackedBeams
from antiphon.decoder.sampling.logprobs import DeviceLogprobs
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.sampling.settings import SamplingFeatures
from antiphon.decoder.sampling.verification import DraftPlaces, HostPlaces
from antiphon.decoder.step_tensors import StepInputs, StepShape
from antiphon.scheduler.plan import StepPlan


class OutputSizes(NamedTuple):
    """The most `rows` and `readouts` of a step; and `draft_rows` of a step with drafts,
    each with up to `drafts`."""

    rows: int
    readouts: int
    draft_rows: int = 0
    drafts: int = 0

    @property
    def samples(self) -> int:
        return max(self.rows, self.draft_rows * (self.drafts + 1))


class FinishedStep(NamedTuple):
    """On the device, or on its way from there."""

    samples: Samples
    top: DeviceLogprobs | None = None
    readouts: DeviceReadouts | None = None
    beams: DeviceBeams | PackedBeams | None = None
    accepted: torch.Tensor | None = None  # [rows] drafts that hold
    per_row: int = 1  # samples


class StepOutputs:
    """Of one model's steps. Unused on a pipeline's stages before the last."""

    def __init__(
        self, model: DecoderModel, sampler: Sampler, sizes: OutputSizes, is_last: bool = True
    ) -> None:
        self.model, self.sampler, self.slots = model, sampler, sampler.slots
        device, words = self.slots.device, sampler.vocabulary.span.count
        self.logits = torch.zeros(sizes.samples if is_last else 0, words, device=device)
        self.samples = Samples.empty(sizes.samples, device)
        self._readouts = DeviceReadouts.empty(sizes.readouts, device)
        most = sizes.draft_rows * (sizes.drafts + 1)
        self.places = DraftPlaces.empty(sizes.draft_rows, most, device)

    # ------------------------------------------------------------------ what graphs hold

    def compute(self, inputs: StepInputs, hidden: torch.Tensor, features: SamplingFeatures) -> None:
        """A step's logits, readouts and likeliest tokens, from `hidden` [tokens,
        hidden]."""
        tensors, count = inputs.tensors, inputs.shape.sequences
        if inputs.shape.drafts:
            places = self.places.first(count, inputs.shape.per_row)
            places.lay_out(inputs, self.slots)
            queries, slots, lengths = places.queries, places.slots, places.lengths
        else:
            queries, slots, lengths = tensors.last_tokens, inputs.sample_slots, inputs.lengths
        count = len(queries)
        if not inputs.shape.readouts:
            self.logits[:count] = self.model.logits(hidden[queries])
        else:
            logits = self.model.logits(hidden[torch.cat([queries, tensors.readout_queries])])
            self.logits[:count] = logits[:count]
            readouts = self._readouts.first(inputs.shape.readouts)
            readouts.read(logits[count:], tensors.readout_tokens, self.sampler.vocabulary)
        self.sampler.greedy(
            self.logits[:count], slots, lengths, self.samples.first(count), features
        )

    # ------------------------------------------------------------------ behind them

    def finish(self, plan: StepPlan, shape: StepShape) -> FinishedStep:
        """What the rows of `plan` ask for beside, and which of its drafts hold."""
        readouts = self._readouts.first(len(plan.readouts)) if len(plan.readouts) else None
        if plan.drafts is not None:
            return self._verified(plan, shape, readouts)
        rows = len(plan.slots)
        samples = self.samples.first(rows)
        if not self.slots.host.is_asked:
            return FinishedStep(samples, None, readouts)
        logits, slots = self.logits[:rows], np.where(plan.samples, plan.slots, self.slots.scratch)
        beams = self.sampler.beam_candidates(logits, slots, plan.kv_lens)
        top = self.sampler.finish(logits, slots, plan.kv_lens, samples)
        return FinishedStep(samples, top, readouts, beams)

    def _verified(
        self, plan: StepPlan, shape: StepShape, readouts: DeviceReadouts | None
    ) -> FinishedStep:
        rows, per_row = len(plan.slots), shape.per_row
        on_host = HostPlaces.of(plan, per_row, self.slots.scratch)
        places = self.places.first(rows, per_row)
        samples, logits = self.samples.first(rows * per_row), self.logits[: rows * per_row]
        places.restore(self.slots)
        beams = self.sampler.beam_candidates(
            logits, on_host.slots[::per_row], plan.known_lens, per_row
        )
        top = self.sampler.finish(logits, on_host.slots, on_host.lengths, samples)
        accepted = places.verify(samples, self.slots)
        return FinishedStep(samples, top, readouts, beams, accepted, per_row)
