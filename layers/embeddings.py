"""Both ends of a model: token embeddings of BART's family, and the matrix that makes logits."""

import torch
from torch import nn
from torch.nn import functional as F

from antiphon.config.arithmetic import round_up
from antiphon.families.halves import BartHalf
from antiphon.layers.positions import SinusoidTable
from antiphon.layers.shard import ROWS_MULTIPLE, Shard, Span, Spans

# Up to which a CPU is quicker where the matrix comes first: else it is packed anew for each product
# (51864 by 384, one thread, milliseconds for 5 and 13 rows: 30 to 13 and the same without AVX-512,
# 16 to 12 and 39 to 13 with it; bfloat16 with AMX 6.4 to 4.8 and 6.9 to 5.2).
FEW_ROWS = 15


class WordEmbedding(nn.Module):
    """Token ids to vectors. Several ranks may share the vocabulary.

    `weight` [own words, hidden].
    """

    def __init__(self, vocab_size: int, hidden_size: int, shard: Shard) -> None:
        super().__init__()
        self.words, self.group = shard.vocabulary(vocab_size), shard.group
        weight = torch.empty(self.words.count, hidden_size)
        self.weight = nn.Parameter(weight, requires_grad=False)

    @property
    def shares(self) -> dict[str, Spans]:
        return {"weight": (self.words, Span.whole(self.weight.shape[1]))}

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """[tokens] int64 -> [tokens, hidden], the same on every rank."""
        if self.group.size == 1:
            return F.embedding(token_ids, self.weight)
        own = F.embedding(self.words.places(token_ids), self.weight)
        return self.group.all_reduce(own * self.words.holds(token_ids)[:, None])

    def longest(self) -> float:
        """The largest Euclidean length of any word's vector, also of other ranks' words."""
        own = self.weight.float().norm(dim=1).max()
        return float(self.group.all_gather(own).max())


class TokenEmbedding(nn.Module):
    """Token plus absolute position embedding, with a norm behind in some families.

    `embed_tokens` is [vocabulary, hidden], `embed_positions` [positions + offset, hidden].
    """

    def __init__(self, half: BartHalf, shard: Shard) -> None:
        super().__init__()
        size = half.hidden_size
        self.scale = half.embedding_scale
        self.embed_tokens = WordEmbedding(half.vocab_size, size, shard)
        self.embed_positions: nn.Module
        if half.positions == "learned":
            self.first_row = half.position_offset
            rows = half.max_positions + half.position_offset
            self.embed_positions = nn.Embedding(rows, size)
        else:
            self.first_row = 0
            self.embed_positions = SinusoidTable(
                half.positions,
                half.max_positions,
                size,
                half.position_offset,
                half.padding_id is not None,
            )
        # A padding token has no position: it takes the row of zeros behind the table.
        self.padding_id, self.padding_row = half.padding_id, half.max_positions
        self.layernorm_embedding = nn.LayerNorm(size) if half.embedding_norm else nn.Identity()

    def forward(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Token ids [tokens] and positions [tokens], both int64 -> [tokens, hidden]."""
        if self.padding_id is not None:
            positions = torch.where(token_ids == self.padding_id, self.padding_row, positions)
        return self.placed(self.words(token_ids), positions)

    def words(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Without positions: [tokens] int64 -> [tokens, hidden]"""
        words: torch.Tensor = self.embed_tokens(token_ids)
        return words * self.scale

    def placed(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden], of words or what stands in their place, at `positions` [tokens]
        int64."""
        placed: torch.Tensor = self.layernorm_embedding(
            x + self.embed_positions(positions + self.first_row)
        )
        return placed

    def max_length(self) -> float:
        """Bound of the Euclidean length of an embedded token, before the norm."""
        positions = self.embed_positions.weight
        assert isinstance(positions, torch.Tensor)
        position = float(positions.float().norm(dim=1).max())
        return self.embed_tokens.longest() * abs(self.scale) + position


class OutputHead(nn.Module):
    """Hidden states [rows, hidden] to logits [rows, own words].

    `weight` [own words, hidden] is shared with the embedding `tied`, where one is
    given. It is the first rows of a matrix whose number of rows is a multiple of eight:
    for Whisper's 51866 cuBLAS has no fast product (63 to 88 us on an H200 for 8 to 128
    rows, against 38 us for 51872).
    """

    def __init__(
        self, hidden_size: int, vocab_size: int, shard: Shard, tied: WordEmbedding | None
    ) -> None:
        super().__init__()
        self.words = shard.vocabulary(vocab_size)
        self._padded = torch.zeros(round_up(self.words.count, ROWS_MULTIPLE), hidden_size)
        self.weight = nn.Parameter(self._padded[: self.words.count])
        if tied is not None:
            tied.weight = self.weight

    @property
    def shares(self) -> dict[str, Spans]:
        return {"weight": (self.words, Span.whole(self.weight.shape[1]))}

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> [rows, own words]"""
        if hidden.device.type == "cpu" and 1 < len(hidden) <= FEW_ROWS:
            return (self._padded @ hidden.t()).t()[:, : self.words.count].contiguous()
        return F.linear(hidden, self._padded)[:, : self.words.count]
