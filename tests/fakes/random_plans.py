"""What machines of random step plans share: a scheduler, its simulated decoder, and the tokens that
every request must give, whatever happens to the others."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from simulated_decoder import SimulatedDecoder, generated_by, start, undisturbed

from antiphon.scheduler.request import Finished, Request, RequestState
from antiphon.scheduler.scheduler import Scheduler


class RandomPlans(RuleBasedStateMachine):
    """Chunks, forks, cancellations, preemptions, failures and late results, in any order.

    Subclasses begin with `set_up`, and add and fork requests of their own kinds.
    """

    def set_up(self, scheduler: Scheduler, lag: int) -> None:
        self.scheduler = scheduler
        self.decoder = SimulatedDecoder(scheduler, lag)
        self.wanted: dict[int, list[int]] = {}
        self.ended: dict[int, Finished] = {}

    def running(self) -> list[Request]:
        return self.scheduler.batch.running()

    def submit(self, request: Request, cross: int) -> None:
        """A new request; `cross` is the number of its cross KV, 0 without."""
        self.wanted[request.id.number] = undisturbed(request, cross)
        self.scheduler.add(request)

    def fork_off(self, parent: Request, child: Request, like: Request, cross: int) -> None:
        """`like` gives what `child` must give, behind what both have by now."""
        like.generated = list(child.generated) or generated_by(self.scheduler, parent.slot)
        self.wanted[child.id.number] = undisturbed(like, cross)
        self.scheduler.fork(parent, child)

    @precondition(lambda self: self.running())
    @rule(index=st.integers(0, 5))
    def cancel(self, index: int) -> None:
        running = self.running()
        self.scheduler.cancel(running[index % len(running)].id)

    @rule(kind=st.sampled_from(["launch", "result"]))
    def break_a_step(self, kind: str) -> None:
        self.decoder.breaks.add(kind)

    @rule(count=st.integers(1, 5))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.advance()

    def advance(self) -> None:
        start(self.decoder)
        self.decoder.step()
        # A lane may wait for results, and for those that are to be preempted for it.
        patience = 3 * (self.decoder.lag + 2) * len(self.decoder.turns_missed)
        assert max(self.decoder.turns_missed) < patience, "a lane starves"
        for output in self.scheduler.outputs.pop():
            for end in output.finished:
                assert end.number not in self.ended, "ended twice"
                self.ended[end.number] = end

    @invariant()
    def pages_are_accounted_for(self) -> None:
        """Each page of a running sequence has it as an owner; what may be written is its own."""
        if not hasattr(self, "scheduler"):
            return
        batch, pages = self.scheduler.batch, self.scheduler.pages
        pages.check()
        batch.check()
        owners = np.zeros(pages.num_pages, np.int64)
        slots = np.flatnonzero(batch.active).tolist()
        for slot in slots:
            owners[batch.self_table[slot, : batch.num_self_pages[slot]]] += 1
        for slot in slots:
            first = batch.computed[slot] // batch.page_size
            written = batch.self_table[slot, first : batch.num_self_pages[slot]]
            assert (owners[written] == 1).all(), "a shared page is to be written"
            assert not set(written.tolist()) & set(pages._hashes), "a published page as well"

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.decoder.breaks.clear()
        for _ in range(5000):
            if not self.scheduler.requests and not self.decoder.in_flight:
                break
            self.advance()
        self.advance()  # for the ends of those that were cancelled last
        assert sorted(self.ended) == sorted(self.wanted), "not done"
        assert self.scheduler.pages.num_available == self.scheduler.pages.num_pages
        assert self.scheduler.encodes.tokens == 0
        for number, end in self.ended.items():
            wanted = self.wanted[number]
            if end.state is RequestState.DONE:
                assert end.token_ids == wanted
                self.check_done(number, end)
            else:
                assert end.token_ids == wanted[: len(end.token_ids)]
                assert end.state in (
                    RequestState.CANCELLED,
                    RequestState.FAILED,
                    RequestState.REFUSED,
                )

    def check_done(self, number: int, end: Finished) -> None:
        """More about a request that was done."""
