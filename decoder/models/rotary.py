"""What decoders share whose self-attention turns queries and keys by their positions:
an embedding, layers, a last norm and an output head."""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from antiphon.decoder.models.interface import CachedAttention, DecoderModel, DecoderStep
from antiphon.families.halves import HeadTensors
from antiphon.families.rotary import Rotary
from antiphon.layers.embeddings import OutputHead, WordEmbedding
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LinearInput, Norm
from antiphon.layers.quantization.kv_scales import CachedProjections, ProjectionInput
from antiphon.layers.residual import Residual
from antiphon.layers.rotary import HeadNorms, RotaryTable, Rotation
from antiphon.layers.shard import Part


class RotaryHalf(Protocol):
    """What a `RotaryDecoder` reads of its half."""

    @property
    def hidden_size(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def num_embedded(self) -> int: ...

    @property
    def max_positions(self) -> int: ...

    @property
    def rotary(self) -> Rotary: ...


class RotarySelfAttention(CachedAttention):
    """`qkv`, `o_proj` and perhaps `norms` are its heirs'."""

    qkv: StackedLinear
    o_proj: Linear
    norms: HeadNorms | None

    def __init__(self, layer: int, rotary: Rotary) -> None:
        super().__init__()
        self.layer, self.norms = layer, None
        # Turning may move the length of two coordinates into one.
        self.key_growth = math.sqrt(2) * rotary.gain

    def projections(self) -> CachedProjections:
        return CachedProjections(self.qkv, self.qkv, self.o_proj, self.key_growth, self.norms)

    def forward(self, x: LinearInput, step: DecoderStep, rotation: Rotation) -> torch.Tensor:
        """[tokens, hidden] -> `o_proj`'s [tokens, heads * head_dim]; writes self KV."""
        destination = step.pool.destination(self.layer, step.slot_mapping)
        q = self.qkv.queries(x, destination, rotation, self.norms)
        return step.causal.run(q, *step.pool.pages(self.layer)).flatten(1)


class RotaryLayer(nn.Module):
    attention: RotarySelfAttention

    @property
    @abstractmethod
    def first_norm(self) -> Norm:
        """Of what `attention` reads."""

    @abstractmethod
    def forward(self, residual: Residual, step: DecoderStep, rotation: Rotation) -> Residual: ...


class RotaryDecoder(DecoderModel):
    """`make_layer`: from a layer's number in this part; a layer without self-attention
    is no `RotaryLayer`, and takes what that takes. `make_norm`: the last norm."""

    def __init__(
        self,
        half: RotaryHalf,
        head: HeadTensors,
        part: Part,
        make_layer: Callable[[int], nn.Module],
        make_norm: Callable[[], Norm],
    ) -> None:
        super().__init__()
        size, words, shard = half.hidden_size, half.vocab_size, part.shard
        self.embed_tokens = None
        if part.is_first:
            self.embed_tokens = WordEmbedding(half.num_embedded, size, shard)
        self.rotary = RotaryTable(half.rotary, half.max_positions)
        self.layers = nn.ModuleList(make_layer(layer) for layer in range(len(part.layers)))
        self.norm: Norm | None = None
        self.lm_head: OutputHead | None = None
        if part.is_last:
            self.norm = make_norm()
            tied = self.embed_tokens if head.tied else None
            self.lm_head = OutputHead(size, words, shard, tied)

    def embed(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        assert self.embed_tokens is not None
        embedded: torch.Tensor = self.embed_tokens(token_ids)
        return embedded

    def forward(self, x: torch.Tensor, positions: torch.Tensor, step: DecoderStep) -> torch.Tensor:
        rotation, residual = self.rotary(positions), Residual(x)
        for layer in self.layers:
            residual = layer(residual, step, rotation)
        return residual.total() if self.norm is None else self.norm.of_sum(residual)

    def self_projections(self) -> list[tuple[CachedProjections, ProjectionInput]]:
        layers = [layer for layer in self.layers if isinstance(layer, RotaryLayer)]
        return [
            (
                layer.attention.projections(),
                ProjectionInput.of_norm(layer.first_norm.weight, None),
            )
            for layer in layers
        ]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        assert self.lm_head is not None
        logits: torch.Tensor = self.lm_head(hidden)
        return logits
