"""How one half's layers and weights are divided among ranks.

Heads, features and words are spread unevenly where they do not divide: nothing but reductions needs
equal shapes, and those see [tokens, hidden]. Padding all to the largest would cost the same time
and more memory; a GPU pads a share whose own width it would multiply slowly (`padding.py`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self, runtime_checkable

import torch

from antiphon.config.errors import ConfigurationError
from antiphon.config.parallel import Parallel
from antiphon.families.halves import Half
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

    def holds(self, numbers: torch.Tensor) -> torch.Tensor:
        """Which of `numbers` are in it: bool of the same shape."""
        return (numbers >= self.first) & (numbers < self.end)

    def places(self, numbers: torch.Tensor) -> torch.Tensor:
        """Where those `numbers` that it `holds` stand in it; 0 for others."""
        return (numbers - self.first) * self.holds(numbers)

    def times(self, size: int) -> "Span":
        """The same in units of which each of these things has `size`: heads in features."""
        return Span(self.first * size, self.count * size, self.total * size)


Spans = tuple[Span, ...]  # what is held of a tensor: one for each of its dimensions


def whole(*sizes: int) -> Spans:
    """All of a tensor of these sizes."""
    return tuple(Span.whole(size) for size in sizes)


def as_span(size: "int | Span") -> Span:
    """A number stands for all of so many."""
    return Span.whole(size) if isinstance(size, int) else size


@runtime_checkable
class Sharded(Protocol):
    """A module that holds shares of tensors."""

    shares: Mapping[str, Spans]  # by the name of each tensor of its own


@dataclass(frozen=True)
class Heads:
    """The heads of one rank. Equally many query heads share each of its key/value heads.

    `dim`: features of a head.
    """

    queries: Span
    kv: Span
    dim: int = 1

    @property
    def query_features(self) -> Span:
        return self.queries.times(self.dim)

    @property
    def kv_features(self) -> Span:
        return self.kv.times(self.dim)


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

    def heads(self, queries: int, kv: int, dim: int = 1) -> Heads:
        """Of `queries` heads of `dim` features, equally many of which share each of `kv` key/value
        heads.

        With fewer key/value heads than ranks, several ranks hold a copy of one. No rank may be
        without query heads: `size` is at most `queries`.
        """
        sharing = queries // kv
        if kv >= self.size:
            span = Span.share(kv, self.rank, self.size)
            return Heads(span.times(sharing), span, dim)
        # Ranks are spread over key/value heads, and the heads of one over its ranks.
        holders = [Span.share(self.size, head, kv) for head in range(kv)]
        head = next(head for head, ranks in enumerate(holders) if self.rank < ranks.end)
        ranks = holders[head]
        own = Span.share(sharing, self.rank - ranks.first, ranks.count)
        return Heads(Span(head * sharing + own.first, own.count, queries), Span(head, 1, kv), dim)

    def heads_of(self, half: Half) -> Heads:
        return self.heads(half.num_heads, half.num_kv_heads, half.head_dim)

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


def check_parallel(half: Half, parallel: Parallel) -> None:
    """Raises ConfigurationError for more ranks than there is to share."""
    option = f"{half.side}_{{}}_parallel_size={{}}"
    if parallel.pipeline > 1 and not half.equal_layers:
        raise ConfigurationError(
            f"{option.format('pipeline', parallel.pipeline)}: layers of this {half.side} differ in "
            "width, and are not spread over stages: share them by tensor or data parallelism"
        )
    if parallel.pipeline > half.num_layers:
        raise ConfigurationError(
            f"{option.format('pipeline', parallel.pipeline)}: the {half.side} has "
            f"{half.num_layers} layers, and each stage needs one"
        )
    if parallel.pipeline > 1 and half.one_stage:
        raise ConfigurationError(
            f"{option.format('pipeline', parallel.pipeline)}: {half.one_stage}: use tensor or data "
            "parallel ranks"
        )
    if parallel.layers and sum(parallel.layers) != half.num_layers:
        counts = " + ".join(map(str, parallel.layers))
        raise ConfigurationError(
            f"{half.side}_pipeline_layers: {counts} = {sum(parallel.layers)} layers, and the "
            f"{half.side} has {half.num_layers}"
        )
    if parallel.mode == "data":
        return
    words = -(-half.vocab_size // ROWS_MULTIPLE) or half.num_heads  # an audio encoder has none
    for most, what in (
        (
            half.most_tensor_ranks,
            f"{half.most_tensor_ranks} heads of attention, and each rank needs one",
        ),
        (words, f"{half.vocab_size} words, and each rank needs {ROWS_MULTIPLE}"),
        (
            -(-half.ffn_size // math.gcd(half.ffn_size, FEATURES_MULTIPLE)),
            f"{half.ffn_size} features in its feed-forward layers: too few to share",
        ),
    ):
        if parallel.tensor > most:
            raise ConfigurationError(
                f"{option.format('tensor', parallel.tensor)}: the {half.side} has {what}: "
                f"at most {most}"
            )


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
        """The part of rank `ranks.rank`. `ranks.stages.size` is at most `num_layers`."""
        layers = ranks.parallel.layers_of(ranks.stages.rank, num_layers)
        return cls(layers, num_layers, Shard(ranks.tensor))

    @classmethod
    def all_of(cls, parallel: Parallel, num_layers: int) -> list[Self]:
        """The parts of all ranks, by rank, to reckon with; their groups cannot be used. Ranks that
        share inputs, not weights, hold whole layers."""
        every = [Ranks.imagined(parallel, rank) for rank in range(parallel.num_ranks)]
        parts = [cls.of(ranks, num_layers) for ranks in every]
        if parallel.mode == "data":
            return [cls(part.layers, num_layers) for part in parts]
        return parts

    @property
    def is_first(self) -> bool:
        return self.layers.start == 0

    def whole_path(self, path: str) -> str:
        """Where the whole half has the tensor at `path` of this part. Layers of a part are numbered
        from 0; `before` has tensors of the layer before them."""
        first, _, rest = path.partition(".")
        if first == "before":
            return f"layers.{self.layers.start - 1}.{rest}"
        if first != "layers":
            return path
        number, _, rest = rest.partition(".")
        return f"layers.{int(number) + self.layers.start}.{rest}"

    @property
    def is_last(self) -> bool:
        return self.layers.stop == self.num_layers
