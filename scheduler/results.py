"""Takes the results of a step in: tokens and log-probabilities go to the requests that
they are of."""

from typing import NamedTuple

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
    if result.readouts is not None:
        _add_readouts(batch, plan, is_live, *result.readouts)
    rows = samples.nonzero()[0]
    tokens = _SampledTokens(plan.slots[rows], plan.known_lens[rows], rows * result.per_row)
    ends = _take_in(batch, tokens, result, outputs, now)
    if result.accepted is None:
        return ends
    batch.num_drafts[plan.slots[is_live]] = 0
    accepted = result.accepted[rows]
    for number in range(1, result.per_row):
        goes_on = accepted >= number
        goes_on &= ~np.isin(tokens.slots, [request.slot for request, _ in ends])
        if not goes_on.any():
            break
        tokens, accepted = tokens.behind(goes_on), accepted[goes_on]
        # Each has computed the draft that holds, and so the token behind it is pending.
        for counts in (batch.computed, batch.length, batch.pending):
            counts[tokens.slots] += 1
        ends += _take_in(batch, tokens, result, outputs, now)
    return ends


class _SampledTokens(NamedTuple):
    """One token each of sequences in `slots` [n], at `positions` [n] of them, which are `samples`
    [n] of the step."""

    slots: np.ndarray
    positions: np.ndarray
    samples: np.ndarray

    def behind(self, chosen: np.ndarray) -> "_SampledTokens":
        """Those behind the ones that are `chosen` [n] bool."""
        slots, positions, samples = (values[chosen] for values in self)
        return _SampledTokens(slots, positions + 1, samples + 1)


def _take_in(
    batch: Batch, sampled: _SampledTokens, result: StepResult, outputs: Outputs, now: float
) -> list[Ending]:
    """Appends them. Returns as `settle`."""
    slots, positions, samples = sampled
    tokens = result.tokens[samples]
    is_first = positions == batch.prompt_len[slots]
    stops = batch.settle(slots, positions, tokens)
    if result.logprobs is not None:
        batch.logprobs[slots, positions] = result.logprobs[samples]
    if result.restricted_logprobs is not None:
        batch.restricted_logprob[slots] += result.restricted_logprobs[samples]
    if batch.asking["logprobs"]:
        asking = batch.wants_logprobs[slots]
        for slot, sample in zip(slots[asking].tolist(), samples[asking].tolist(), strict=True):
            request = batch.request_at(slot)
            request.logprobs.append(result.of_token(sample, request.params.logprobs or 0))
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
