"""What the runner needs of a decoder, whatever its structure."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from antiphon.attention.interface import PlannedAttention
from antiphon.kv.pool import KVPool
from antiphon.layers.eight_bit import Quantised
from antiphon.layers.embeddings import TokenEmbedding
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import RMSNorm

RowSource = nn.LayerNorm | RMSNorm | TokenEmbedding  # of what a projection reads


@dataclass(frozen=True)
class DecoderStep:
    """What every layer of one step shares: pages, where to write, and both planned attentions."""

    pool: KVPool
    slot_mapping: torch.Tensor  # [tokens] where this step's self keys go
    causal: PlannedAttention[object]
    cross: PlannedAttention[object]


class CachedAttention(nn.Module):
    """An attention sublayer whose keys and values are kept."""

    @property
    @abstractmethod
    def projections(self) -> tuple[Linear, StackedLinear, Linear]:
        """What makes queries; what makes keys and values, as its last two parts; what reads the attention's output. The first two may
        be the same layer."""


class CrossWriter(CachedAttention):
    """A cross-attention layer, seen as the writer of its own cache."""

    kv: StackedLinear

    @abstractmethod
    def write(
        self, hidden: torch.Tensor | Quantised, slot_mapping: torch.Tensor, pool: KVPool
    ) -> None:
        """Keys and values of encoder states [tokens, hidden] into the pool at `slot_mapping` [tokens]."""


class DecoderModel(nn.Module):
    layers: nn.ModuleList

    @abstractmethod
    def forward(
        self, token_ids: torch.Tensor, positions: torch.Tensor, step: DecoderStep
    ) -> torch.Tensor:
        """Packed [tokens] -> hidden [tokens, hidden]; writes the tokens' self KV."""

    @cached_property
    def self_attentions(self) -> list[CachedAttention]:
        """One per layer."""
        return [
            each
            for each in self.layers.modules()
            if isinstance(each, CachedAttention) and not isinstance(each, CrossWriter)
        ]

    @abstractmethod
    def self_attention_inputs(self) -> list[RowSource]:
        """Where the rows that each layer's self-attention reads come from."""

    @cached_property
    def cross_attentions(self) -> list[CrossWriter]:
        """One per layer."""
        return [each for each in self.layers.modules() if isinstance(each, CrossWriter)]

    def write_cross(self, hidden: torch.Tensor, slot_mapping: torch.Tensor, pool: KVPool) -> None:
        """Encoder states [tokens, hidden] -> every layer's cross keys and values at `slot_mapping` [tokens]."""
        given = self.cross_attentions[0].kv.prepared(hidden)  # once for all layers
        for attention in self.cross_attentions:
            attention.write(given, slot_mapping, pool)

    @abstractmethod
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> [rows, vocabulary], float32 or the model's dtype"""
