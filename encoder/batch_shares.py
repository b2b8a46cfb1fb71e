"""Encoder ranks that share a batch's inputs, each with all of the weights."""

import numpy as np
import torch

from antiphon.layers.shard import Span
from antiphon.runtime.groups import Group


def shares(lengths: np.ndarray, size: int) -> list[Span]:
    """Of inputs of these `lengths` [inputs] int, those that each of `size` ranks encodes: about
    equally many tokens, in the order of the batch. A rank may have none."""
    total, count = lengths.sum(), len(lengths)
    middles = lengths.cumsum() - lengths / 2
    owners = np.minimum(middles * size / total, size - 1).astype(int)
    ends = np.searchsorted(owners, np.arange(size), side="right").tolist()
    return [
        Span(first, end - first, count) for first, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


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
