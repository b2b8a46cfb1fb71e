"""What drafts for `SimulatedDecoder`."""

from typing import TYPE_CHECKING

import numpy as np

from antiphon.scheduler.plan import StepPlan

if TYPE_CHECKING:
    from simulated_decoder import SimulatedDecoder


def put_drafts(decoder: "SimulatedDecoder", plan: StepPlan) -> None:
    """Puts drafts behind what is known: those of the plan, or those of a model, right two times in
    three. It must have computed the keys of all that it sees."""
    drafts = plan.drafts
    if drafts is None:
        return
    for row, count in enumerate(drafts.counts.tolist()):
        slot, known = int(plan.slots[row]), int(plan.known_lens[row])
        own = decoder.tokens[slot]
        if drafts.tokens is not None:
            own[known : known + count] = drafts.tokens[row, :count]
            continue
        for number in range(count):
            end = known + number
            start = known - int(drafts.lags[row]) if number == 0 else end - 1
            _compute(decoder, slot, start, end)
            right = decoder.right_token(slot, own[:end].tolist())
            own[end] = right if right % 3 else 2


def _compute(decoder: "SimulatedDecoder", slot: int, start: int, end: int) -> None:
    """The draft model's keys of tokens `start` to `end`, to see all of them."""
    own, size, table = decoder.tokens[slot], decoder.page_size, decoder.tables[slot]
    positions = np.arange(start, end)
    decoder.draft_memory[table[positions // size], positions % size] = own[start:end]
    seen = decoder.draft_memory[table[: -(-end // size)]].reshape(-1)[:end]
    assert seen.tolist() == own[:end].tolist(), "not computed"
