"""Takes the results of a step in: tokens and log-probabilities go to the requests that
they are of."""

import numpy as np

from antiphon.scheduler.batch import Batch
from antiphon.scheduler.generated import FinishReason, ReadoutValue, StopReason
from antiphon.scheduler.outputs import Outputs
from antiphon.scheduler.plan import StepPlan, StepResult
from antiphon.scheduler.request import Request

Ending = tuple[Request, FinishReason]


def settle(
    batch: Batch, plan: StepPlan, result: StepResult, outputs: Outputs, now: float
) -> list[Ending]:
    """Appends the sampled tokens, and adds those of streams to `outputs`.

    Returns the sequences that are done, and why. Rows whose request has ended since the
    plan was made are dropped, and those of beam searches, which `Beams` takes in. `now`:
    of the scheduler's clock.
    """
    live = batch.live_rows(plan)
    rows = live[plan.samples[live] & ~batch.in_group[plan.slots[live]]]
    slots, tokens, positions = plan.slots[rows], result.tokens[rows], plan.kv_lens[rows]
    is_first = positions == batch.prompt_len[slots]
    stops = batch.settle(slots, positions, tokens)
    batch.add_logprobs(slots, positions, result, rows)
    if result.readouts is not None:
        _add_readouts(batch, plan, *result.readouts)
    for row in rows[batch.wants_logprobs[slots]]:
        request = batch.request_at(plan.slots[row])
        request.logprobs.append(result.of_token(int(row), request.params.logprobs or 0))
    for slot in slots[is_first]:
        batch.request_at(slot).metrics.first_token_at = now
    streaming = batch.streams[slots]
    if streaming.any():
        generated = positions - batch.prompt_len[slots]
        outputs.add_tokens(slots[streaming], generated[streaming], tokens[streaming])
    return [
        (batch.request_at(slots[row]), StopReason(stops[row]).finish_reason)
        for row in np.flatnonzero(stops)
    ]


def _add_readouts(
    batch: Batch, plan: StepPlan, logprobs: np.ndarray, likeliest: np.ndarray
) -> None:
    readouts = plan.readouts
    for i in np.flatnonzero(np.isin(readouts.rows, batch.live_rows(plan))):
        request = batch.request_at(plan.slots[readouts.rows[i]])
        value = ReadoutValue(float(logprobs[i]), int(likeliest[i]))
        request.readout_values[int(readouts.indices[i])] = value


def reason_of_end(request: Request) -> FinishReason | None:
    """Why a request that was resumed has ended already: only the message of its end was lost."""
    if request.generated and request.generated[-1] in request.rules.stop_ids:
        return "stop"
    return "length" if len(request.generated) >= request.max_tokens else None
