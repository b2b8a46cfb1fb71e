"""Encoder ranks that share a batch's inputs, each with all of the weights."""

import numpy as np
import torch

from antiphon.layers.shard import Span
from antiphon.runtime.groups import Group


def shares(lengths: np.ndarray, size: int) -> list[Span]:
    """Of inputs of these `lengths` [inputs] int, those that each of `size` ranks encodes: about
    equally many tokens, in the order of the batch. The last ranks may have none; of equal inputs
    the first rank, which leads, has no fewer than any."""
    ends = lengths.cumsum()
    total, count = int(ends[-1]), len(lengths)
    spans: list[Span] = []
    first = tokens = 0
    for left in range(size, 0, -1):
        fair = tokens + -(-(total - tokens) // left)  # of what the ranks before have left
        end = min(int(ends.searchsorted(fair)) + 1, count) if tokens < total else count
        spans.append(Span(first, end - first, count))
        first, tokens = end, int(ends[end - 1])
    return spans


def gather(own: torch.Tensor, tokens: list[int], group: Group) -> torch.Tensor:
    """Hidden states of every rank on the first one, [sum of tokens, hidden]; others return `own`.

    `own` [tokens of this rank, hidden]; `tokens`: of each rank.
    """
    if group.rank:
        if len(own):
            group.send(own, 0)
        return own
    whole = own.new_empty(sum(tokens), own.shape[1])
    for rank, part in enumerate(whole.split(tokens)):
        if rank == 0:
            part.copy_(own)
        elif len(part):
            group.receive(part, rank)
    return whole
