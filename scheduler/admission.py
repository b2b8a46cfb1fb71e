"""Which ready requests join the next step."""

from dataclasses import dataclass

from antiphon.scheduler.intake import Intake
from antiphon.scheduler.outputs import Outputs
from antiphon.scheduler.plan import Admission, CrossWrite
from antiphon.scheduler.planning import StepPlanner
from antiphon.scheduler.residency import Residency


@dataclass(frozen=True)
class AdmissionControl:
    """Moves requests from `intake` into the batch."""

    intake: Intake
    residency: Residency
    planner: StepPlanner
    outputs: Outputs

    def admit(self, lane: int = 0) -> tuple[list[Admission], list[CrossWrite]]:
        """Admits ready requests to `lane` in order, while slots and pages last, its step has a
        token left for each, and it has no more than its share of all sequences. No request
        overtakes the first that does not fit, unless that is a search that steps aside."""
        admissions: list[Admission] = []
        writes: list[CrossWrite] = []
        batch, candidates = self.residency.batch, self.intake.candidates()
        request = next(candidates, None)
        if request is None or not batch.num_free:
            return admissions, writes
        budget = self.planner.free(lane)
        fair_size = batch.fair_size(lane, self.intake.num_ready)
        while request is not None and batch.lane_sizes[lane] < fair_size:
            may_pass = self.intake.aside.lets_pass(request)
            if not (may_pass or request.num_slots > 1):
                break
            if may_pass and batch.num_free >= request.num_slots:
                prefix = self.residency.prefixes.find(request)
                remaining = request.length - len(prefix) * batch.page_size
                budget = budget.beside(request.num_slots - 1)
                if not budget.has_room(remaining) or not self.residency.fits(request, prefix):
                    break
                budget = budget.without(remaining)
                self.intake.take(request)
                new, write = self.residency.enter(request, prefix, lane)
                self.outputs.admit(request)
                admissions += new
                if write is not None:
                    self.intake.consume(request, write)
                    writes.append(write)
            elif not (batch.num_free and self.intake.step_aside(request)):
                break
            request = next(candidates, None)
        return admissions, writes
