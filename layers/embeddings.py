"""Token plus absolute position embedding, as both halves of BART's family begin; and how decoders end."""

import torch
from torch import nn
from torch.nn import functional as F

from antiphon.config.arithmetic import round_up
from antiphon.families.halves import BartHalf
from antiphon.layers.positions import SinusoidTable


class TokenEmbedding(nn.Module):
    def __init__(self, half: BartHalf) -> None:
        super().__init__()
        self.scale = half.embedding_scale
        self.embed_tokens = nn.Embedding(half.vocab_size, half.hidden_size)
        self.embed_positions: nn.Module
        if half.positions == "learned":
            self.first_row = half.position_offset
            self.embed_positions = nn.Embedding(
                half.max_positions + half.position_offset, half.hidden_size
            )
        else:
            self.first_row = 0
            self.embed_positions = SinusoidTable(
                half.positions,
                half.max_positions,
                half.hidden_size,
                half.position_offset,
                half.padding_id is not None,
            )
        self.padding_id, self.padding_row = half.padding_id, half.max_positions
        self.layernorm_embedding = (
            nn.LayerNorm(half.hidden_size) if half.embedding_norm else nn.Identity()
        )

    def forward(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """[tokens], [tokens] -> [tokens, hidden]"""
        rows = positions + self.first_row
        if self.padding_id is not None:
            rows = torch.where(token_ids == self.padding_id, self.padding_row, rows)
        x = self.embed_tokens(token_ids) * self.scale + self.embed_positions(rows)
        return self.layernorm_embedding(x)

    def max_length(self) -> float:
        """Length that a row can have, before a norm."""
        places = self.embed_positions.weight
        assert isinstance(places, torch.Tensor)
        token, place = (
            float(rows.float().norm(dim=1).max()) for rows in (self.embed_tokens.weight, places)
        )
        return token * abs(self.scale) + place


class OutputHead(nn.Module):
    """Hidden states to logits; with `tied`, by the embedding's own matrix.

    The weight is the first rows of a matrix with a multiple of eight: for Whisper's 51866 cuBLAS has no fast product (63 to 88 us on
    an H200 for 8 to 128 rows, against 38 for 51872).
    """

    def __init__(self, hidden_size: int, vocab_size: int, tied: nn.Embedding | None) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self._rows = torch.zeros(round_up(vocab_size, 8), hidden_size)
        self.weight = nn.Parameter(self._rows[:vocab_size])
        if tied is not None:
            tied.weight = self.weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> [rows, vocabulary]"""
        return F.linear(hidden, self._rows)[:, : self.vocab_size]
