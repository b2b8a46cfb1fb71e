"""Brings a decoder's keys and values into the range of a float8 cache.

float8 numbers reach from 2^-9 to 448; what a model makes need not. A cache would keep a scale for each layer; here the scale goes into
the weights instead. Keys meet nothing but queries, and values nothing but the output projection: a factor on the rows that make keys, and
its inverse on those that make queries, change no score. Factors are powers of two, so nothing is rounded either, and no attention kernel
has to know of them.

How large keys and values can become is known without any input. They are made of rows that a norm has left: of length sqrt(size) at most,
times its gain, plus its bias.
"""

import math
from dataclasses import dataclass

import torch

from antiphon.decoder.models.interface import CachedAttention, DecoderModel, RowSource
from antiphon.families.halves import Half
from antiphon.kernels.formats import FLOAT8_MAX
from antiphon.layers.embeddings import TokenEmbedding
from antiphon.layers.linear import StackedLinear
from antiphon.layers.weights import Checkpoint

# What one side gains the other loses: more would push its weights out of the range of their own format.
MOST_DOUBLINGS = {torch.float16: 6, torch.bfloat16: 60, torch.float32: 60}


@dataclass(frozen=True)
class Rows:
    """Inputs of a projection: `gain * x + shift` for some `x` that is no longer than `length`."""

    gain: torch.Tensor  # [features] float32
    shift: torch.Tensor  # [features] float32
    length: float

    @classmethod
    def of(cls, source: RowSource) -> "Rows":
        if isinstance(source, TokenEmbedding):
            ones = torch.ones(
                source.embed_tokens.embedding_dim, device=source.embed_tokens.weight.device
            )
            return cls(ones, torch.zeros_like(ones), source.longest())
        return cls.normed(source.weight, getattr(source, "bias", None))

    @classmethod
    def normed(cls, gain: torch.Tensor, shift: torch.Tensor | None) -> "Rows":
        return cls(
            gain.float(),
            torch.zeros_like(gain, dtype=torch.float32) if shift is None else shift.float(),
            math.sqrt(len(gain)),
        )

    @classmethod
    def of_encoder(cls, half: Half, checkpoint: Checkpoint | None, device: torch.device) -> "Rows":
        """What an encoder's last norm leaves; without a checkpoint, of random weights, its gains are 1."""
        size = torch.Size([half.hidden_size])
        if checkpoint is None:
            return cls.normed(torch.ones(size, device=device), None)
        found = {}
        for part in ("weight", "bias"):
            names = half.checkpoint_names(f"{half.last_norm}.{part}")
            stored = [name for name in names if name in checkpoint]
            found[part] = checkpoint.read(stored[0], size).to(device) if stored else None
        gain = found["weight"]
        assert gain is not None, "an encoder that was loaded has a last norm"
        return cls.normed(gain, found["bias"])

    def largest(self, weight: torch.Tensor, bias: torch.Tensor | None) -> float:
        """That an element of `weight @ row + bias` can become (Cauchy and Schwarz)."""
        weight = weight.float()
        fixed = weight @ self.shift
        if bias is not None:
            fixed = fixed + bias.float()
        return float(((weight * self.gain).norm(dim=1) * self.length + fixed.abs()).max())


def fit_to_float8(model: DecoderModel, encoded: Rows) -> None:
    """Scales the projections of every layer, before they are quantised; `encoded` is what cross-attention reads."""
    for attention, source in zip(model.self_attentions, model.self_attention_inputs(), strict=True):
        _fit(attention, Rows.of(source))
    for attention in model.cross_attentions:
        _fit(attention, encoded)


def _fit(attention: CachedAttention, rows: Rows) -> None:
    query, keys_values, output = attention.projections
    keys, values = list(keys_values.parts)[-2:]
    factor = _factor(keys_values, keys, rows)
    keys_values.scale_part(keys, factor)
    if isinstance(query, StackedLinear):
        query.scale_part(next(iter(query.parts)), 1 / factor)
    else:
        query.scale_outputs(1 / factor)
    factor = _factor(keys_values, values, rows)
    keys_values.scale_part(values, factor)
    output.scale_inputs(1 / factor)


def _factor(layer: StackedLinear, part: str, rows: Rows) -> float:
    """The largest power of two with which this part's outputs stay within float8."""
    weight, bias = layer.tensors_of(part)
    largest = rows.largest(weight, bias)
    if not 0 < largest < math.inf:
        return 1.0
    most = MOST_DOUBLINGS[weight.dtype]
    return 2.0 ** max(-most, min(most, math.floor(math.log2(FLOAT8_MAX / largest))))
