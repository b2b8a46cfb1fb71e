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
    batch: Batch,
    plan: StepPlan,
    is_live: np.ndarray,
    result: StepResult,
    outputs: Outputs,
    now: float,
) -> list[Ending]:
    """Appends the sampled tokens, and adds those of streams to `outputs`.

    Returns the sequences that are done, and why. Rows whose request has ended since the
    plan was made are dropped: those that are not `is_live` [rows]; and those of beam
    searches, which `Beams` takes in. `now`: of the scheduler's clock.
    """
    samples = is_live & plan.samples
    if batch.asking["beams"]:
        samples &= ~batch.in_group[plan.slots]
    rows = samples.nonzero()[0]
    slots, tokens, positions = plan.slots[rows], result.tokens[rows], plan.kv_lens[rows]
    is_first = positions == batch.prompt_len[slots]
    stops = batch.settle(slots, positions, tokens)
    if result.logprobs is not None:
        batch.logprobs[slots, positions] = result.logprobs[rows]
    if result.restricted_logprobs is not None:
        batch.restricted_logprob[slots] += result.restricted_logprobs[rows]
    if result.readouts is not None:
        _add_readouts(batch, plan, is_live, *result.readouts)
    if batch.asking["logprobs"]:
        for row in rows[batch.wants_logprobs[slots]]:
            request = batch.request_at(plan.slots[row])
            request.logprobs.append(result.of_token(int(row), request.params.logprobs or 0))
    for slot in slots[is_first].tolist():
        batch.request_at(slot).metrics.first_token_at = now
    if batch.asking["streams"]:
        streaming = batch.streams[slots]
        generated = positions - batch.prompt_len[slots]
        outputs.add_tokens(slots[streaming], generated[streaming], tokens[streaming])
    ending = stops.nonzero()[0]
    return [
        (batch.request_at(slot), StopReason(stop).finish_reason)
        for slot, stop in zip(slots[ending].tolist(), stops[ending].tolist(), strict=True)
    ]


def _add_readouts(
    batch: Batch,
    plan: StepPlan,
    is_live: np.ndarray,
    logprobs: np.ndarray,
    likeliest: np.ndarray,
) -> None:
    readouts = plan.readouts
    for i in np.flatnonzero(is_live[readouts.rows]):
        request = batch.request_at(plan.slots[readouts.rows[i]])
        value = ReadoutValue(float(logprobs[i]), int(likeliest[i]))
        request.readout_values[int(readouts.indices[i])] = value


def reason_of_end(request: Request) -> FinishReason | None:
    """Why a request that was resumed has ended already: only the message of its end was lost."""
    if request.generated and request.generated[-1] in request.rules.stop_ids:
        return "stop"
    return "length" if len(request.generated) >= request.max_tokens else None
