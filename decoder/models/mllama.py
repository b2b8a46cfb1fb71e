"""The decoder of Llama 3.2 Vision (Grattafiori et al. 2024, section 7): Llama's layers,
and between them gated layers that attend to images instead of earlier tokens.

Which images a token sees follows from where they stand in its prompt: all tokens that a
step computes of a sequence see the same (`scheduler/cross_views.py`). Here remains what
a mask cannot say: sequences without an image skip these layers, and tokens before the
first image skip their feed-forward part. (They attend to all images, as transformers
has it; in the published models' own code they do not attend.)
"""

import torch
from torch import nn

from antiphon.decoder.models.interface import CachedCrossAttention, DecoderStep
from antiphon.decoder.models.llama import DecoderLayer, FeedForward
from antiphon.decoder.models.rotary import RotaryDecoder
from antiphon.families.halves import HeadTensors
from antiphon.families.mllama_half import MllamaHalf
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.norms import LinearInput, RMSNorm
from antiphon.layers.quantization.kv_scales import CachedProjections
from antiphon.layers.residual import Residual
from antiphon.layers.rotary import HeadNorms, Rotation
from antiphon.layers.shard import Part, Shard
from antiphon.layers.stored_linear import GatedLinear
from antiphon.scheduler.cross_views import Sees


class CrossAttention(CachedCrossAttention):
    def __init__(self, half: MllamaHalf, layer: int, shard: Shard) -> None:
        super().__init__()
        size, self.layer, heads = half.hidden_size, layer, shard.heads_of(half)
        self.head_dim, inner = half.head_dim, heads.query_features
        self.q_proj = Linear(size, inner, bias=False)
        parts = dict.fromkeys(("k_proj", "v_proj"), heads.kv_features)
        self.kv = StackedLinear(size, parts, bias=False)
        self.o_proj = GatedLinear(inner, size, bias=False, summed_over=shard.group)
        self.norms = HeadNorms(half.head_dim, half.norm_eps)

    def projections(self) -> CachedProjections:
        return CachedProjections(self.q_proj, self.kv, self.o_proj, norms=self.norms)

    def forward(self, x: LinearInput, step: DecoderStep) -> torch.Tensor:
        """[tokens, hidden] -> what `o_proj` reads [tokens, heads * head_dim]."""
        return self.attend(self.q_proj(x), step)


class CrossLayer(nn.Module):
    def __init__(self, half: MllamaHalf, layer: int, shard: Shard) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(half.hidden_size, half.norm_eps)
        self.cross_attention = CrossAttention(half, layer, shard)
        self.post_attention_layernorm = RMSNorm(half.hidden_size, half.norm_eps)
        self.feed_forward = FeedForward(half, shard, down=GatedLinear)

    def forward(self, residual: Residual, step: DecoderStep, rotation: Rotation) -> Residual:
        assert step.sees is not None
        sees = step.sees[:, None]
        x, residual = self.input_layernorm(residual)
        attended = self.cross_attention.o_proj(self.cross_attention(x, step))
        residual = residual.plus(torch.where(sees > Sees.NOTHING, attended, 0.0))

        x, residual = self.post_attention_layernorm(residual)
        output = self.feed_forward.down_proj(self.feed_forward(x))
        return residual.plus(torch.where(sees == Sees.LATEST, output, 0.0))


class MllamaDecoder(RotaryDecoder):
    def __init__(self, half: MllamaHalf, head: HeadTensors, part: Part) -> None:
        def make_layer(layer: int) -> nn.Module:
            kind = CrossLayer if part.layers[layer] in half.cross_layers else DecoderLayer
            return kind(half, layer, part.shard)

        super().__init__(
            half,
            head,
            part,
            make_layer=make_layer,
            make_norm=lambda: RMSNorm(half.hidden_size, half.norm_eps),
        )
