"""What a decoder's stages pass on: the residual stream from each stage to the next, and
sampled tokens from the last stage to the first.

All stages run all plans in one order, so a send meets the receive of the same plan.
Nothing is exchanged inside CUDA graphs, which use tensors of fixed addresses.

The first stage receives a step's tokens just before it runs the next step of the same
lane, which reads them. With as many lanes as stages, it runs other lanes while the last
stage samples. By then the host knows which slots have a new owner: tokens sampled for
an earlier owner are dropped.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch

from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.state import Slots
from antiphon.layers.shard import Part
from antiphon.runtime.device import together_to_device
from antiphon.runtime.ranks import Ranks
from antiphon.scheduler.plan import StepPlan


@dataclass(frozen=True)
class _Awaited:
    """Tokens of a step that the last stage will send."""

    lane: int
    slots: np.ndarray  # [rows]; the scratch slot where a row samples nothing
    positions: np.ndarray  # [rows] of the tokens in their sequences


class StageLinks:
    """The links of one stage. Sends do not wait for receivers (see `Group.send`).
    Tokens have a group of their own, since a stage may have to receive tokens before a
    stream that it has sent ahead is received."""

    def __init__(
        self, ranks: Ranks, part: Part, slots: Slots, size: tuple[int, int], dtype: torch.dtype
    ) -> None:
        """`size`: tokens of the largest step, and what each is made of (hidden)."""
        self.group, self.backward = ranks.stages, ranks.backward
        self.part, self.slots = part, slots
        self.stage, self.last = ranks.stages.rank, ranks.stages.size - 1
        self.device = slots.device
        # What the layers here read, and what they gave; [tokens, hidden].
        self.incoming = torch.zeros((0, 0) if part.is_first else size, dtype=dtype).to(self.device)
        self.outgoing = torch.zeros((0, 0) if part.is_last else size, dtype=dtype).to(self.device)
        self._awaited: deque[_Awaited] = deque()  # on the first stage, oldest first

    # ------------------------------------------------------------------ the stream

    def receive_stream(self, num_tokens: int) -> None:
        """Of a step of so many tokens, padding included, into `incoming`."""
        if not self.part.is_first:
            self.group.receive(self.incoming[:num_tokens], self.stage - 1)

    def send_stream(self, num_tokens: int) -> None:
        """What is in `outgoing`."""
        if not self.part.is_last:
            self.group.send(self.outgoing[:num_tokens], self.stage + 1)

    # ------------------------------------------------------------------ tokens

    def send_tokens(self, samples: Samples) -> None:
        """On the last stage: those that a step sampled."""
        if self.last > 0 and self.part.is_last:
            self.backward.send(samples.tokens, 0)

    def begin(self, plan: StepPlan) -> None:
        """Before `plan` runs or changes anything here: receives the tokens that its
        rows read, and drops tokens still to come for slots that it gives to others."""
        if self.last == 0 or not self.part.is_first:
            return
        behind = [n for n, awaited in enumerate(self._awaited, 1) if awaited.lane == plan.lane]
        for _ in range(max(behind, default=0)):
            self._receive_tokens(self._awaited.popleft())
        taken = [*plan.beam_moves.slots, *(fork.slot for fork in plan.forks)]
        taken += [admission.slot for admission in plan.admissions]
        if taken:
            for awaited in self._awaited:
                awaited.slots[np.isin(awaited.slots, taken)] = self.slots.scratch
        slots = np.where(plan.samples, plan.slots, self.slots.scratch)
        self._awaited.append(_Awaited(plan.lane, slots, plan.kv_lens.copy()))

    def _receive_tokens(self, awaited: _Awaited) -> None:
        tokens = torch.zeros(len(awaited.slots), dtype=torch.int64, device=self.slots.device)
        self.backward.receive(tokens, self.last)
        slots, positions = together_to_device([awaited.slots, awaited.positions], self.slots.device)
        # Rows that sample nothing: column 0 of the scratch slot.
        positions = torch.where(slots == self.slots.scratch, 0, positions)
        self.slots.tokens[slots, positions] = tokens
