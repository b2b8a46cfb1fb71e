"""How one half's layers and weights are divided among ranks.

Heads, features and words are spread unevenly where they do not divide: nothing but reductions needs
equal shapes, and those see [tokens, hidden]. Padding would cost the same time and more memory.
"""

import math
from dataclasses import dataclass, field
from typing import Self

from antiphon.runtime.groups import Alone, Group
from antiphon.runtime.ranks import Ranks

FEATURES_MULTIPLE = 16  # float8 products need it
ROWS_MULTIPLE = 8  # of the matrix that makes logits: cuBLAS has no fast product for odd numbers


@dataclass(frozen=True)
class Span:
    """`count` of `total` things, from number `first`."""

    first: int
    count: int
    total: int

    @classmethod
    def whole(cls, total: int) -> Self:
        return cls(0, total, total)

    @classmethod
    def share(cls, total: int, rank: int, size: int, multiple: int = 1) -> Self:
        """Rank `rank`'s share: whole multiples, the first ranks have one more where they do not
        divide; the last multiple may be cut short."""
        units = -(-total // multiple)
        small, more = divmod(units, size)
        first = (rank * small + min(rank, more)) * multiple
        end = first + (small + (rank < more)) * multiple
        return cls(min(first, total), min(end, total) - min(first, total), total)

    @property
    def is_whole(self) -> bool:
        return self.count == self.total

    @property
    def end(self) -> int:
        return self.first + self.count

    @property
    def slice(self) -> slice:
        return slice(self.first, self.end)

    def times(self, size: int) -> "Span":
        """The same in units of which each of these things has `size`: heads in features."""
        return Span(self.first * size, self.count * size, self.total * size)


@dataclass(frozen=True)
class Heads:
    """The heads of one rank. Equally many query heads share each of its key/value heads."""

    queries: Span
    kv: Span


@dataclass(frozen=True)
class Shard:
    """One rank's share of every layer, and the group that sums what the shares give."""

    group: Group = field(default_factory=Alone)

    @property
    def rank(self) -> int:
        return self.group.rank

    @property
    def size(self) -> int:
        return self.group.size

    def heads(self, queries: int, kv: int) -> Heads:
        """Of `queries` heads, equally many of which share each of `kv` key/value heads.

        With fewer key/value heads than ranks, several ranks hold a copy of one. No rank may be
        without query heads: `size` is at most `queries`.
        """
        sharing = queries // kv
        if kv >= self.size:
            span = Span.share(kv, self.rank, self.size)
            return Heads(span.times(sharing), span)
        # Ranks are spread over key/value heads, and the heads of one over its ranks.
        holders = [Span.share(self.size, head, kv) for head in range(kv)]
        head = next(head for head, ranks in enumerate(holders) if self.rank < ranks.end)
        ranks = holders[head]
        own = Span.share(sharing, self.rank - ranks.first, ranks.count)
        return Heads(Span(head * sharing + own.first, own.count, queries), Span(head, 1, kv))

    def features(self, total: int) -> Span:
        """Of a feed-forward layer's inner features."""
        multiple = math.gcd(total, FEATURES_MULTIPLE)
        return Span.share(total, self.rank, self.size, multiple)

    def vocabulary(self, total: int) -> Span:
        """Of the vocabulary's words: multiples of eight, but for the last ones."""
        return self.vocabulary_of(self.rank, total)

    def vocabulary_of(self, rank: int, total: int) -> Span:
        """As `vocabulary`, of another rank."""
        return Span.share(total, rank, self.size, ROWS_MULTIPLE)


@dataclass(frozen=True)
class Part:
    """What one rank holds of a half: some of its layers, and its share of each of them.

    `layers`: by number in the whole half. The first stage also embeds; the last one also has the
    final norm and the head.
    """

    layers: range
    num_layers: int  # of the whole half
    shard: Shard = field(default_factory=Shard)

    @classmethod
    def whole(cls, num_layers: int) -> Self:
        return cls(range(num_layers), num_layers)

    @classmethod
    def of(cls, ranks: Ranks, num_layers: int) -> Self:
        """The part of rank `ranks.rank`. Where layers do not divide, the first stages have one
        more: the last one also computes logits. `ranks.stages.size` is at most `num_layers`."""
        own = Span.share(num_layers, ranks.stages.rank, ranks.stages.size)
        return cls(range(own.first, own.end), num_layers, Shard(ranks.tensor))

    @property
    def is_first(self) -> bool:
        return self.layers.start == 0

    @property
    def is_last(self) -> bool:
        return self.layers.stop == self.num_layers
