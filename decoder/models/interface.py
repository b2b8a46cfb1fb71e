"""What the runner needs of a decoder, whatever its structure."""

from abc import abstractmethod
from functools import cached_property

import msgspec
import torch
from torch import nn

from antiphon.attention.interface import PlannedAttention
from antiphon.kv.pool import KVPool
from antiphon.layers.absorbed import AbsorbedProjections
from antiphon.layers.linear import StackedLinear
from antiphon.layers.quantization.kv_scales import CachedProjections, ProjectionInput
from antiphon.layers.quantization.rows import QuantizedRows
from antiphon.layers.rotary import HeadNorms


class DecoderStep(msgspec.Struct, frozen=True):
    """What all layers of a step share: pages, slot mapping, and planned attentions."""

    pool: KVPool
    slot_mapping: torch.Tensor  # [tokens] int32: where this step's self keys and values go
    causal: PlannedAttention[object]
    cross: PlannedAttention[object] | None  # None: the model attends to its own tokens alone
    # [tokens] int8: `Sees` of each, where not all attend to the same inputs
    sees: torch.Tensor | None = None
    # By layer, [tokens, heads, head_dim] of cross-attention, as the layers run: where
    # the pool keeps some of them (`KVPool.keep_queries`)
    cross_queries: dict[int, torch.Tensor] = msgspec.field(default_factory=dict)


class CachedAttention(nn.Module):
    """An attention sublayer whose keys and values are kept in pages."""

    @abstractmethod
    def projections(self) -> CachedProjections:
        """The linear layers before attention, and the one behind it."""


class CachedCrossAttention(CachedAttention):
    """A cross-attention sublayer, which also writes what it attends to; or, with its
    projections `absorbed`, attends to hidden states that are there for all layers."""

    layer: int
    head_dim: int
    kv: StackedLinear

    def __init__(self) -> None:
        super().__init__()
        self.norms: HeadNorms | None = None  # of heads, between projections and attention
        self.absorbed: AbsorbedProjections | None = None

    def absorb(self) -> None:
        """Attends to hidden states from now on, and drops `kv`. To be called once,
        after loading and before anything is quantized."""
        assert self.norms is None, "keys are more than a projection: see `Half.needs_keys`"
        self.absorbed = AbsorbedProjections(self.kv, self.head_dim)
        del self.kv

    def write(
        self, hidden: torch.Tensor | QuantizedRows, slot_mapping: torch.Tensor, pool: KVPool
    ) -> None:
        """Writes keys and values of encoder states [tokens, hidden] to `pool`.

        `slot_mapping` [tokens] int32 are their positions in it.
        """
        k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in self.kv.split(hidden))
        if self.norms is not None:
            k = self.norms.keys(k)
        pool.write(self.layer, slot_mapping, k, v)

    def attend(self, queries: torch.Tensor, step: DecoderStep) -> torch.Tensor:
        """Queries [tokens, heads * head_dim] -> the output layer's input, so large."""
        assert step.cross is not None
        q = queries.unflatten(-1, (-1, self.head_dim))
        if self.norms is not None:
            q = self.norms.queries(q)
        if step.pool.keeps_queries_of(self.layer):
            step.cross_queries[self.layer] = q
        if self.absorbed is not None:
            return self._attend_to_states(self.absorbed, q, step).flatten(1)
        return step.cross.run(q, *step.pool.pages(self.layer)).flatten(1)

    def _attend_to_states(
        self, absorbed: AbsorbedProjections, queries: torch.Tensor, step: DecoderStep
    ) -> torch.Tensor:
        """[tokens, heads, head_dim], as `queries`."""
        assert step.cross is not None
        assert step.pool.states is not None
        states = step.pool.states.heads
        return absorbed.outputs(step.cross.run(absorbed.queries(queries), states, states))


class DecoderModel(nn.Module):
    """A decoder. Its attention backends and its cache come with each step."""

    layers: nn.ModuleList
    state_factor: float = 1.0  # that the hidden states in pages have

    @abstractmethod
    def embed(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Packed [tokens] int64 ids and positions -> what the layers read [tokens,
        hidden]. Of the first part alone."""

    @abstractmethod
    def forward(self, x: torch.Tensor, positions: torch.Tensor, step: DecoderStep) -> torch.Tensor:
        """Embedded tokens [tokens, hidden] at `positions` [tokens] -> hidden [tokens,
        hidden]. `positions`: [3, tokens] where `Half.position_axes` is 3.

        Writes the tokens' self KV. Of a part that is not the last one: the stream,
        which the next part takes in place of embedded tokens.
        """

    @abstractmethod
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, hidden] -> [rows, own words], float32 or the model's dtype. Of the
        last part alone."""

    @cached_property
    def cross_attentions(self) -> list[CachedCrossAttention]:
        """Those of its layers; none in a model, or a part, without cross-attention."""
        return [
            module for module in self.layers.modules() if isinstance(module, CachedCrossAttention)
        ]

    def write_cross(self, hidden: torch.Tensor, slot_mapping: torch.Tensor, pool: KVPool) -> None:
        """Writes every layer's cross KV of encoder states [tokens, hidden].

        `slot_mapping` [tokens] int32 are their positions in `pool`.
        """
        states: dict[type, torch.Tensor | QuantizedRows] = {}  # once for all layers of one kind
        for attention in self.cross_attentions:
            kind = type(attention.kv.own_method)
            if kind not in states:
                states[kind] = attention.kv.quantize_input(hidden)
            attention.write(states[kind], slot_mapping, pool)

    @torch.no_grad()
    def read_scaled(self, factor: float) -> None:
        """Cross-attention reads hidden states that come multiplied by `factor`."""
        self.state_factor = factor
        for attention in self.cross_attentions:
            assert attention.absorbed is not None
            attention.absorbed.read_scaled(factor)

    @abstractmethod
    def self_projections(self) -> list[tuple[CachedProjections, ProjectionInput]]:
        """Each layer's projections around self-attention, with their inputs."""

    def cross_projections(self) -> list[CachedProjections]:
        """Each layer's projections around cross-attention; none of absorbed ones."""
        return [
            attention.projections()
            for attention in self.cross_attentions
            if attention.absorbed is None
        ]
