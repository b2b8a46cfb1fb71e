"""Brings a decoder's keys and values into the range of a float8 cache.

float8 numbers reach from 2^-9 to 448; what a model makes need not. A cache could keep a scale for
each layer; here the scale goes into the weights instead. Keys meet only queries, and values only
the output projection: a factor on the rows that make keys, and its inverse on those that make
queries, changes no score. Factors are powers of two, so nothing is rounded either, and no attention
kernel has to know of them.

How large keys and values can become is known without any input: they are projections of rows that
a norm has left, of length sqrt(size) at most, times the norm's gain, plus its bias.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import nn

from antiphon.config.errors import ConfigurationError
from antiphon.families.halves import Half
from antiphon.kernels.formats import FLOAT8_MAX
from antiphon.layers.checkpoint import Checkpoint
from antiphon.layers.embeddings import TokenEmbedding
from antiphon.layers.linear import Linear, StackedLinear
from antiphon.layers.rotary import HeadNorms
from antiphon.layers.shard import whole

# What one side gains the other loses: more would leave the range of the weights' own format.
MOST_DOUBLINGS = {torch.float16: 6, torch.bfloat16: 60, torch.float32: 60}

Names = Callable[[str], tuple[str, ...]]  # a checkpoint's names for the tensor at a path


@dataclass(frozen=True)
class CachedProjections:
    """The projections around an attention whose keys and values are cached."""

    queries: Linear  # may be `keys_values` itself: then as its first part
    keys_values: StackedLinear  # makes keys and values, as its last two parts
    output: Linear  # reads what attention makes of the values
    key_growth: float = 1.0  # of keys between their projection and the cache, at most
    norms: HeadNorms | None = None  # that queries and keys go through before


@dataclass(frozen=True)
class ProjectionInput:
    """Rows that a projection reads: `gain * x + shift` for some `x` no longer than `length`."""

    gain: torch.Tensor  # [features] float32
    shift: torch.Tensor  # [features] float32
    length: float

    @classmethod
    def of_norm(cls, gain: torch.Tensor, shift: torch.Tensor | None) -> "ProjectionInput":
        """The output of a norm with this weight and bias, both [features]."""
        no_shift = torch.zeros_like(gain, dtype=torch.float32)
        shift = no_shift if shift is None else shift.float()
        return cls(gain.float(), shift, math.sqrt(len(gain)))

    @classmethod
    def of_embedding(cls, embedding: TokenEmbedding) -> "ProjectionInput":
        """Embedded tokens with their positions, and the norm behind them where there is one."""
        norm = embedding.layernorm_embedding
        if isinstance(norm, nn.LayerNorm):
            return cls.of_norm(norm.weight, norm.bias)
        weight = embedding.embed_tokens.weight
        ones = torch.ones(weight.shape[1], device=weight.device)
        return cls(ones, torch.zeros_like(ones), embedding.max_length())

    @classmethod
    def of_encoder(
        cls, half: Half, checkpoint: Checkpoint | None, device: torch.device
    ) -> "ProjectionInput":
        """An encoder's states, as its last norm leaves them, and the layer behind it where the
        decoder has another width.

        Without a checkpoint weights are random, and that norm's gains are 1. Raises
        ConfigurationError for an encoder without such a norm.
        """
        if not half.last_norm:
            raise ConfigurationError(
                "kv_cache_dtype='fp8': no norm bounds what this encoder gives (Donut's ends "
                "without one), so its keys and values could leave float8's range: leave it out"
            )
        if checkpoint is None:
            return cls.of_norm(torch.ones(half.output_size, device=device), None)

        def read(path: str, *sizes: int) -> torch.Tensor | None:
            stored = [name for name in half.checkpoint_names(path) if name in checkpoint]
            return checkpoint.read(stored[0], whole(*sizes)).to(device) if stored else None

        norm, size = half.last_norm, half.hidden_size
        gain, shift = read(f"{norm}.weight", size), read(f"{norm}.bias", size)
        assert gain is not None, "an encoder that was loaded has a last norm"
        rows = cls.of_norm(gain + half.stored_gain_offset, shift)
        weight = None
        if half.output_size != size:
            weight = read("projector.linear_1.weight", half.output_size, size)
        if weight is None:
            return rows
        return rows.behind(weight.float(), read("projector.linear_1.bias", half.output_size))

    def behind(self, weight: torch.Tensor, bias: torch.Tensor | None) -> "ProjectionInput":
        """What a linear layer [out, features] makes of these rows."""
        shift = weight @ self.shift
        if bias is not None:
            shift = shift + bias.float()
        stretch = torch.linalg.matrix_norm(weight * self.gain, ord=2)
        return ProjectionInput(torch.ones_like(shift), shift, self.length * float(stretch))

    def factor(self, dtype: torch.dtype) -> float:
        """The largest power of two that keeps these rows, times it, within float8. `dtype`: of
        weights that undo it."""
        bound = float((self.gain.abs() * self.length + self.shift.abs()).max())
        return _power_of_two(bound, dtype)

    def largest(self, weight: torch.Tensor, bias: torch.Tensor | None) -> float:
        """Bound of the elements of `weight @ row + bias`, by Cauchy and Schwarz."""
        weight = weight.float()
        fixed = weight @ self.shift
        if bias is not None:
            fixed = fixed + bias.float()
        return float(((weight * self.gain).norm(dim=1) * self.length + fixed.abs()).max())


@dataclass(frozen=True)
class StoredScales:
    """A checkpoint's own: float8 keys and values of an attention are times these. They were
    calibrated, and are closer than any bound."""

    keys: float
    values: float

    @classmethod
    def of(cls, path: str, names: Names, checkpoint: Checkpoint) -> "StoredScales | None":
        """Of the attention at `path`; None where the checkpoint has no single scale of each."""
        scales = []
        for which in ("k_scale", "v_scale"):
            stored = names(f"{path}.{which}")
            checkpoint.claim(stored)
            scales += [checkpoint.tensor(name) for name in stored if name in checkpoint][:1]
        if len(scales) < 2 or any(scale.numel() != 1 for scale in scales):
            return None
        keys, values = (float(scale) for scale in scales)
        return cls(keys, values)


Fitted = tuple[CachedProjections, ProjectionInput]


def fit_kv_scales(attentions: Iterable[Fitted], stored: Sequence[StoredScales | None] = ()) -> None:
    """Scales the projections of every attention, each with what its keys and values are made of,
    or by a checkpoint's scales. Before they are quantized.
    """
    for (projections, rows), scales in zip_longest(attentions, stored):
        _fit(projections, rows, scales)


def _fit(
    projections: CachedProjections, rows: ProjectionInput, stored: StoredScales | None
) -> None:
    queries, keys_values = projections.queries, projections.keys_values
    keys, values = list(keys_values.parts)[-2:]
    dtype = keys_values.weight.dtype
    if projections.norms is not None:
        _fit_norms(projections.norms, projections.key_growth, stored)
    else:
        if stored is None:
            factor = power_of_two(keys_values, keys, rows, projections.key_growth)
        else:
            factor = _power_of_two(stored.keys * FLOAT8_MAX, dtype)
        keys_values.scale_part(keys, factor)
        if isinstance(queries, StackedLinear):
            queries.scale_part(next(iter(queries.parts)), 1 / factor)
        else:
            queries.scale_outputs(1 / factor)
    if stored is None:
        factor = power_of_two(keys_values, values, rows)
    else:
        factor = _power_of_two(stored.values * FLOAT8_MAX, dtype)
    keys_values.scale_part(values, factor)
    projections.output.scale_inputs(1 / factor)


def _fit_norms(norms: HeadNorms, growth: float, stored: StoredScales | None) -> None:
    """Keys are as large as their norm makes them, whatever their projection gives."""
    queries, keys = norms.q_norm.weight.data, norms.k_norm.weight.data
    largest = float(keys.abs().max()) * math.sqrt(len(keys)) * growth
    if stored is not None:
        largest = stored.keys * FLOAT8_MAX
    factor = _power_of_two(largest, keys.dtype)
    keys.mul_(factor)
    queries.mul_(1 / factor)


def power_of_two(
    layer: StackedLinear, part: str, rows: ProjectionInput, growth: float = 1.0
) -> float:
    """The largest power of two that keeps this part's outputs, times it and `growth`, within
    float8."""
    weight, bias = layer.tensors_of(part)
    return _power_of_two(rows.largest(weight, bias) * growth, layer.weight.dtype)


def _power_of_two(largest: float, dtype: torch.dtype) -> float:
    if not 0 < largest < math.inf:
        return 1.0
    most = MOST_DOUBLINGS[dtype]
    return 2.0 ** max(-most, min(most, math.floor(math.log2(FLOAT8_MAX / largest))))
