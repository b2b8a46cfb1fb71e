"""Hidden states that stand in prompts: which of a step's tokens they replace, and when
the last of those is computed."""

from collections.abc import Iterator

import numpy as np
from msgspec.structs import replace

from antiphon.scheduler.batch import Batch
from antiphon.scheduler.encodes import EncodeLedger
from antiphon.scheduler.plan import Embedding, StepPlan
from antiphon.scheduler.request import Request


def with_embeddings(plan: StepPlan, batch: Batch, encodes: EncodeLedger) -> StepPlan:
    """`plan` with the hidden states that it must put into its prompts. Costs nothing
    for rows whose prompts have none left to come."""
    if not batch.asking["inputs"]:
        return plan
    starts = plan.kv_lens - plan.query_lens
    rows = np.flatnonzero(starts < batch.inputs_end[plan.slots])
    if not len(rows):
        return plan
    first_tokens = plan.query_lens.cumsum() - plan.query_lens
    embeddings: list[Embedding] = []
    spent: list[str] = []
    for row in rows:
        request, start = batch.request_at(plan.slots[row]), int(starts[row])
        end = start + int(plan.query_lens[row])
        embeddings += _of_row(request, start, end, int(first_tokens[row]))
        spent += [key for key in _ended(request, start, end) if encodes.release(request, key)]
    return replace(plan, embeddings=embeddings, spent=tuple(spent))


def _of_row(request: Request, start: int, end: int, first_token: int) -> Iterator[Embedding]:
    """Those within tokens `start` to `end` of a sequence, which begin the step at `first_token`."""
    for media in request.inputs:
        if media.position is None:
            continue
        first, last = max(start, media.position), min(end, media.position + media.num_tokens)
        if first < last:
            offset = first - media.position
            yield Embedding(media.key, offset, first_token + first - start, last - first)


def _ended(request: Request, start: int, end: int) -> Iterator[str]:
    """Keys of inputs whose last token lies within `start` and `end`. (A prompt may hold
    an input more than once.)"""
    last_ends: dict[str, int] = {}
    for media in request.inputs:
        if media.position is not None:
            media_end = media.position + media.num_tokens
            last_ends[media.key] = max(media_end, last_ends.get(media.key, 0))
    return (key for key, last_end in last_ends.items() if start < last_end <= end)
