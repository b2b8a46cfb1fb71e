"""The words whose logits a rank has, where a group's ranks share the vocabulary."""

from functools import cached_property

import torch

from antiphon.layers.shard import Shard, Span
from antiphon.runtime.groups import Group


class VocabularyShard:
    """This rank's words, `span` of `vocab_size`, and the group that has the others.

    Alone, that is the whole vocabulary. Every rank has words (`check_parallel`).
    """

    def __init__(self, vocab_size: int, shard: Shard | None = None) -> None:
        self._shard = Shard() if shard is None else shard
        self.span = self._shard.vocabulary(vocab_size)

    @property
    def group(self) -> Group:
        return self._shard.group

    @property
    def is_shared(self) -> bool:
        """True if other ranks have words."""
        return self._shard.size > 1

    @cached_property
    def _spans(self) -> list[Span]:
        """Of every rank; no other has more words than the first."""
        return [
            self._shard.vocabulary_of(rank, self.span.total) for rank in range(self._shard.size)
        ]

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        """`own` [rows, own words] of every rank -> [rows, vocabulary], alike on all."""
        if not self.is_shared:
            return own
        padded = own.new_zeros(len(own), self._spans[0].count)
        padded[:, : self.span.count] = own
        parts = self.group.all_gather(padded)
        return torch.cat(
            [part[:, : span.count] for part, span in zip(parts, self._spans, strict=True)], dim=1
        )
