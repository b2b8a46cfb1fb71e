"""Logits whose words are divided among ranks, put together on each of them."""

import torch
from torch.nn import functional

from antiphon.layers.shard import Shard


def whole_logits(own: torch.Tensor, shard: Shard, vocab_size: int) -> torch.Tensor:
    """`own` [rows, words of this rank] -> [rows, vocabulary], the same bits on every rank."""
    if shard.size == 1:
        return own
    counts = [shard.vocabulary_of(rank, vocab_size).count for rank in range(shard.size)]
    width = max(counts)  # groups gather equal shapes
    gathered = shard.group.all_gather(functional.pad(own, (0, width - own.shape[1])).contiguous())
    parts = [words[:, :count] for words, count in zip(gathered, counts, strict=True)]
    return torch.cat(parts, 1)
