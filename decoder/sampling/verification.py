"""Which drafts of a step hold: those that equal what the row samples at their place.

Leviathan et al. (2023) and Chen et al. (2023) accept a draft with a probability that
leaves the distribution of the tokens as it is. Here a token is a function of its
distribution, its seed and its position (`drawing.py`), and the row's own draw decides.
A draft therefore holds with the probability of its token, as by their rule for a
drafter that is certain, and a token in place of a draft that does not hold is drawn
from the other tokens. Beyond their rule, all tokens are the same as without drafts, so
load, preemption and a worker's death change none.

While a step samples, drafts stand in `Slots.tokens` behind the known tokens. The rules
of a place see the drafts before it: the right tokens, as far as those drafts hold.
"""

from dataclasses import dataclass

import numpy as np
import torch

from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.state import Slots
from antiphon.decoder.step_tensors import StepInputs
from antiphon.runtime.device import to_device, together_to_device
from antiphon.scheduler.plan import StepPlan


@dataclass(frozen=True)
class HostPlaces:
    """Slots and lengths [samples] of a step with drafts, as the host knows them."""

    slots: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, plan: StepPlan, per_row: int, scratch: int) -> "HostPlaces":
        """`per_row` places for each row: behind its last known token, and behind each
        draft. Places to spare belong to the slot `scratch`."""
        assert plan.drafts is not None
        behind = plan.drafts.counts[:, None] - np.arange(per_row)
        is_sampled = (behind >= 0) & plan.samples[:, None]
        slots = np.where(is_sampled, plan.slots[:, None], scratch)
        lengths = plan.kv_lens[:, None] - behind.clip(0)
        return cls(slots.reshape(-1), lengths.reshape(-1))


@dataclass(frozen=True)
class DraftPlaces:
    """Where the rows of a step with drafts sample; on the device, for graphs to write.

    counts    [rows] int32, drafts of each row
    queries   [samples] int64, tokens of the step
    slots, lengths   [samples] int32, as `Sampler` takes them
    drafts    [samples] int64, what stands at each place before it is sampled
    """

    counts: torch.Tensor
    queries: torch.Tensor
    slots: torch.Tensor
    lengths: torch.Tensor
    drafts: torch.Tensor

    @classmethod
    def empty(cls, rows: int, samples: int, device: torch.device) -> "DraftPlaces":
        ints = [torch.zeros(n, dtype=torch.int32, device=device) for n in (rows, samples, samples)]
        longs = [torch.zeros(samples, dtype=torch.int64, device=device) for _ in range(2)]
        return cls(ints[0], longs[0], ints[1], ints[2], longs[1])

    def first(self, rows: int, per_row: int) -> "DraftPlaces":
        """Of a step of so many rows."""
        count = rows * per_row
        return DraftPlaces(
            self.counts[:rows], self.queries[:count], self.slots[:count], self.lengths[:count],
            self.drafts[:count],
        )  # fmt: skip

    def fill(self, plan: StepPlan, slots: Slots) -> None:
        """Takes in how many drafts the rows of `plan` have. Puts drafts of the host
        behind the known tokens of their sequences."""
        drafts = plan.drafts
        assert drafts is not None
        self.counts.zero_()
        counts = drafts.counts.astype(np.int32)
        if drafts.tokens is None:
            self.counts[: len(counts)] = to_device(counts, slots.device)
            return
        rows, columns = np.nonzero(np.arange(drafts.most) < drafts.counts[:, None])
        device_counts, *place, tokens = together_to_device(
            [counts, plan.slots[rows], plan.known_lens[rows] + columns,
             drafts.tokens[rows, columns]],
            slots.device,
        )  # fmt: skip
        self.counts[: len(counts)] = device_counts
        slots.tokens[place[0], place[1]] = tokens

    def lay_out(self, inputs: StepInputs, slots: Slots) -> None:
        """Makes the places of a step of this size, on the device alone."""
        rows, tensors = inputs.shape.sequences, inputs.tensors
        per_row = len(self.slots) // rows
        behind = self.counts[:, None] - torch.arange(per_row, device=self.counts.device)
        drafts_behind = behind.clamp(min=0)
        last, lengths = tensors.last_tokens[:, None], inputs.lengths[:, None]
        sampled = inputs.sample_slots[:, None].expand(rows, per_row)
        self.queries.view(rows, per_row).copy_(last - drafts_behind)
        self.lengths.view(rows, per_row).copy_(lengths - drafts_behind)
        self.slots.view(rows, per_row).copy_(sampled.masked_fill(behind < 0, slots.scratch))
        self.drafts.copy_(slots.tokens[self.slots, self.lengths])

    def restore(self, slots: Slots) -> None:
        """Puts the drafts back where other tokens were chosen: rules that read earlier
        tokens still have places to sample."""
        slots.tokens[self.slots, self.lengths] = self.drafts

    def verify(self, samples: Samples, slots: Slots) -> torch.Tensor:
        """Writes the sampled tokens in place of the drafts. Returns how many drafts of
        each row hold, [rows] int64: those before the first that differs."""
        slots.tokens[self.slots, self.lengths] = samples.tokens
        per_row = len(self.slots) // len(self.counts)
        is_draft = torch.arange(per_row, device=self.counts.device) < self.counts[:, None]
        holds = (samples.tokens == self.drafts).view(-1, per_row) & is_draft
        return holds.long().cumprod(1).sum(1)
