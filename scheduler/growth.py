"""Pages for the next tokens of running sequences, and who gives way when there are too few."""

from collections import Counter
from dataclasses import dataclass

from antiphon.scheduler.intake import Intake
from antiphon.scheduler.plan import NewPages
from antiphon.scheduler.request import Request
from antiphon.scheduler.residency import Residency


@dataclass(frozen=True)
class Growth:
    """Lets the running sequences grow, and preempts the last in line where it must.

    Last in line is the same for all lanes, so that none makes those of another wait
    that came before its own, and the first in line is never preempted.
    """

    intake: Intake
    residency: Residency
    counters: Counter[str]

    def grow(self, lane: int) -> tuple[NewPages | None, bool]:
        """Gives every sequence of `lane` a page that needs one for its next token.
        Returns also whether sequences were preempted for it.

        None when results must come first: a preempted sequence must know its tokens,
        and one that ends may leave its pages. Other lanes go on meanwhile.
        """
        batch, preempted = self.residency.batch, False
        if batch.num_lanes > 1:
            batch.held_for[batch.held_for == lane + 1] = 0
        while (new_pages := self.residency.grow(lane)) is None:
            if batch.pending[batch.in_lane(lane)].any():
                return None, preempted
            last = max(batch.running(), key=lambda request: request.sort_key)
            slots = batch.slots_of(last)
            if batch.pending[slots].any():  # in another lane: no more tokens before it leaves
                batch.held_for[slots] = lane + 1
                return None, preempted
            self.preempt(last)
            preempted = True
        return new_pages, preempted

    def preempt(self, request: Request) -> None:
        """Puts `request` back into the queue with its tokens. Its self KV is computed
        anew when it returns; its cross KV may survive in the cache."""
        self.residency.leave(request)
        request.metrics.preemptions += 1
        self.counters["preemptions"] += 1
        self.intake.put_back(request)
