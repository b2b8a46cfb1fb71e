"""Linear layers: what they are, and the interface of the ways to compute them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from antiphon.layers.activations import Activation
from antiphon.layers.held_weight import HeldWeight
from antiphon.layers.kv_destination import KVDestination
from antiphon.layers.norms import DeferredNorm, LinearInput
from antiphon.layers.quantization.quantized_weight import QuantizedWeight
from antiphon.layers.quantization.rows import QuantizedRows
from antiphon.layers.reading import Read, Weight
from antiphon.layers.residual import RankTerm, Residual
from antiphon.layers.rotary import HeadNorms, Rotation
from antiphon.layers.shard import Span, as_span
from antiphon.runtime.groups import Alone, Group


class Linear(HeldWeight):
    """`x @ weight.T + bias`; `method` says how it is computed.

    The method is chosen once, after loading (`prepare.py`). A fresh layer is one plain product.

    Several ranks may share a layer. Each has some of its outputs, or some of its
    inputs: then the ranks of the group `summed_over` each compute a term of the sum,
    and the first one adds the bias.
    """

    def __init__(
        self,
        in_features: int | Span,
        out_features: int | Span,
        bias: bool = True,
        summed_over: Group | None = None,
    ) -> None:
        super().__init__(as_span(in_features), as_span(out_features), bias)
        self.summed_over = summed_over or Alone()
        self.use(PlainProduct())

    def use(self, method: "LinearMethod") -> None:
        """Computes what this rank holds by `method`."""
        self.own_method = method
        is_shared = self.summed_over.size > 1
        self.method = SummedOverRanks(method, self.summed_over) if is_shared else method

    def quantize(self, values: torch.Tensor, scale: torch.Tensor, method: "LinearMethod") -> None:
        """Stores the weight as `values` with `scale`, which `method` computes with."""
        self.store(values, scale)
        self.use(method)

    def forward(self, x: LinearInput) -> torch.Tensor:
        """[tokens, in] -> [tokens, out]"""
        return self.method.product(self, x)

    def activated(self, x: LinearInput, activation: Activation) -> torch.Tensor | QuantizedRows:
        """[tokens, in] -> `activation` of this layer's output [tokens, out]."""
        return self.method.activated(self, x, activation)

    def add_to(self, residual: Residual, x: LinearInput) -> Residual:
        """The stream `residual` [tokens, out] plus this layer's output for `x` [tokens, in]."""
        return self.method.add_to(self, residual, x)

    def quantize_input(self, x: torch.Tensor) -> torch.Tensor | QuantizedRows:
        """`x` [tokens, in] in the form that this layer reads, for several layers like it."""
        return self.method.quantize_input(x)


class StackedLinear(Linear):
    """Several projections of the same input as one matrix product: q, k and v, or gate and up.

    A checkpoint stores them apart as `<parent>.<part>.weight`; here they are stacked
    row by row, in the order of `parts`. `unbiased` parts have no bias there and get
    zeros (Whisper's keys).
    """

    def __init__(
        self,
        in_features: int,
        out_features: Mapping[str, int | Span],
        bias: bool,
        unbiased: tuple[str, ...] = (),
    ) -> None:
        spans = {part: as_span(features) for part, features in out_features.items()}
        self.parts = {part: span.count for part, span in spans.items()}
        super().__init__(in_features, sum(self.parts.values()), bias)
        self.spans, self.unbiased = spans, unbiased
        self.apart = nn.ModuleDict()  # layers of parts that can't be one weight, else empty

    def split(self, x: LinearInput) -> tuple[torch.Tensor, ...]:
        """[tokens, in] -> one [tokens, out] per part (views of one buffer)."""
        return self.split_outputs(self(x))

    def queries(
        self,
        x: LinearInput,
        destination: KVDestination,
        rotation: Rotation | None = None,
        norms: HeadNorms | None = None,
    ) -> torch.Tensor:
        """Of queries, keys and values: the queries [tokens, heads, head_dim].

        Keys and values are written to `destination`. Before, queries and keys go
        through `norms`, and are turned by `rotation`; the former only with the latter.
        """
        return self.method.queries(self, x, destination, rotation, norms)

    def split_outputs(self, outputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[tokens, sum of the parts] -> one [tokens, out] per part."""
        return outputs.split(list(self.parts.values()), dim=-1)

    def tensors_of(self, part: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias of one part, as views; of a quantised weight, what it stands for."""
        assert self.weight_scale is None
        rows = self.rows_of(part)
        bias = None if self.bias is None else self.bias.data[rows]
        if part in self.apart:
            return self._apart(part).numbers(), bias
        return self.numbers()[rows], bias

    def _apart(self, part: str) -> Linear:
        layer = self.apart[part]
        assert isinstance(layer, Linear)
        return layer

    def rows_of(self, part: str) -> slice:
        """Its outputs among all."""
        names = list(self.parts)
        first = sum(self.parts[name] for name in names[: names.index(part)])
        return slice(first, first + self.parts[part])

    def scale_part(self, part: str, factor: float) -> None:
        """One part's output comes multiplied by `factor`. Before quantization."""
        weight, bias = self.tensors_of(part)
        if bias is not None:
            bias.mul_(factor)
        if part in self.apart:
            self._apart(part).scale_inputs(factor)
        elif self.quantized is not None:
            factors = torch.ones(self.shape[0], device=self.device)
            factors[self.rows_of(part)] = factor
            self.quantized = self.quantized.scaled(factors)
        else:
            weight.mul_(factor)

    # ------------------------------------------------------------------ loading

    def source(self, path: str, part: str) -> tuple[str, Span]:
        """Where checkpoints have a part of the layer at `path`: another layer's path, and rows."""
        return f"{path.rpartition('.')[0]}.{part}", self.spans[part]

    def order(self, part: str) -> torch.Tensor | None:
        """The stored rows of a part in the order in which they are held; None: as they are."""
        return None

    def load(self, path: str, read: Read) -> None:
        weights = []
        for part in self.parts:
            source, span = self.source(path, part)
            stored = read.weight(f"{source}.weight", (span, self.inputs))
            weights.append(self._ordered(part, stored))
            bias = None if self.bias is None else self.bias.data[self.rows_of(part)]
            if bias is not None and part in self.unbiased:
                bias.zero_()
            elif bias is not None:
                stored_bias, order = read(f"{source}.bias", (span,)), self.order(part)
                bias.copy_(stored_bias if order is None else stored_bias[order])
        self.fill_parts(weights)

    def _ordered(self, part: str, stored: Weight) -> Weight:
        order = self.order(part)
        if order is None:
            return stored
        return stored.rows(order) if isinstance(stored, QuantizedWeight) else stored[order]

    def fill_parts(self, weights: Sequence[Weight]) -> None:
        """As `fill`, one of each part. Those of one kind are one weight; otherwise each part is a
        layer of its own."""
        quantized = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
        plain = [weight for weight in weights if isinstance(weight, torch.Tensor)]
        if not quantized:
            self.allocate()
            for part, numbers in zip(self.parts, plain, strict=True):
                self.weight.data[self.rows_of(part)].copy_(numbers)
        elif len(quantized) == len(weights) and all(map(quantized[0].can_stack, quantized)):
            self.fill(QuantizedWeight.stacked(quantized))
        else:
            for part, weight in zip(self.parts, weights, strict=True):
                self.apart[part] = self._layer_of(part, weight)
            self.use(PartsApart())

    def _layer_of(self, part: str, weight: Weight) -> Linear:
        with torch.device("meta"):
            layer = Linear(self.inputs, self.parts[part], bias=False)
        layer.weight.data = layer.weight.data.to(self.weight.dtype)
        layer.built_on = self.built_on
        layer.fill(weight)
        return layer


class LinearMethod(ABC):
    """How linear layers are computed. Holds no weights: several layers may share one.

    A method must define `product`. The others are what some methods fuse with it; here
    they are separate operations.
    """

    @abstractmethod
    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        """As `Linear.forward`."""

    def activated(
        self, layer: Linear, x: LinearInput, activation: Activation
    ) -> torch.Tensor | QuantizedRows:
        """As `Linear.activated`."""
        activated: torch.Tensor | QuantizedRows = activation(self.product(layer, x))
        return activated

    def add_to(self, layer: Linear, residual: Residual, x: LinearInput) -> Residual:
        """As `Linear.add_to`."""
        return residual.plus(self.product(layer, x))

    def queries(
        self,
        layer: StackedLinear,
        x: LinearInput,
        destination: KVDestination,
        rotation: Rotation | None = None,
        norms: HeadNorms | None = None,
    ) -> torch.Tensor:
        """As `StackedLinear.queries`."""
        outputs = layer.split_outputs(self.product(layer, x))
        q, k, v = (part.unflatten(-1, (-1, destination.head_dim)) for part in outputs)
        if norms is not None:
            q, k = norms.norm(q, k)
        if rotation is not None:
            q, k = rotation.turn(q, k)
        destination.write(k, v)
        return q

    def quantize_input(self, x: torch.Tensor) -> torch.Tensor | QuantizedRows:
        """As `Linear.quantize_input`."""
        return x


class SummedOverRanks(LinearMethod):
    """The sum of the terms that the ranks of `group` compute, each by its own `method`.

    What a method could fuse behind its product is done behind the sum; the sum itself, where it is
    small, by the norm behind it.
    """

    def __init__(self, method: LinearMethod, group: Group) -> None:
        self.own, self.group = method, group

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        return self.group.all_reduce(self.own.product(layer, x))

    def add_to(self, layer: Linear, residual: Residual, x: LinearInput) -> Residual:
        term = self.own.product(layer, x)
        shared = self.group.shared_rows(term)
        if shared is None:
            return residual.plus(self.group.all_reduce(term))
        return residual.plus(RankTerm(term, self.group, shared))

    def quantize_input(self, x: torch.Tensor) -> torch.Tensor | QuantizedRows:
        return self.own.quantize_input(x)


class PlainProduct(LinearMethod):
    """One product in the model's precision; what surrounds it are operations of their own."""

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        return F.linear(as_tensor(x), layer.weight, layer.bias)


def as_tensor(x: LinearInput) -> torch.Tensor:
    """`x` for a method that neither norms nor takes quantized rows."""
    assert not isinstance(x, QuantizedRows), "a norm quantizes only what quantized layers read"
    return x.norm.in_torch(x.x) if isinstance(x, DeferredNorm) else x


class PartsApart(LinearMethod):
    """Of a stacked layer: each part by the method of its own layer."""

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        assert isinstance(layer, StackedLinear)
        outputs = torch.cat([part(x) for part in layer.apart.values()], dim=-1)
        return outputs if layer.bias is None else outputs + layer.bias
