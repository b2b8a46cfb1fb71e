"""Linear layers: what they are, and the interface of the ways to compute them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn import functional as F

from antiphon.layers.activations import Activation
from antiphon.layers.kv_destination import KVDestination
from antiphon.layers.norms import DeferredNorm, LinearInput
from antiphon.layers.quantization.rows import QuantizedRows
from antiphon.layers.residual import Residual
from antiphon.layers.rotary import HeadNorms, Rotation
from antiphon.layers.shard import Span, Spans, as_span
from antiphon.runtime.groups import Alone, Group

# What is held of a checkpoint's tensor, by path and spans.
Read = Callable[[str, Spans], torch.Tensor]


@runtime_checkable
class SelfLoading(Protocol):
    """A module that checkpoints store in another form than it has."""

    def load(self, path: str, read: Read) -> None:
        """Fills the module at `path` of the model with the tensors that `read` gives."""


class Linear(nn.Module):
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
        super().__init__()
        self.inputs, self.outputs = as_span(in_features), as_span(out_features)
        self.summed_over = summed_over or Alone()
        out = self.outputs.count
        weight = torch.empty(out, self.inputs.count)
        self.weight = nn.Parameter(weight, requires_grad=False)  # [out, in], as `method` stores it
        self.weight_scale: torch.Tensor | None = None  # of a quantized weight
        self.bias = nn.Parameter(torch.zeros(out), requires_grad=False) if bias else None
        self.use(PlainProduct())

    @property
    def shares(self) -> dict[str, Spans]:
        """What this rank holds of each tensor."""
        return {"weight": (self.outputs, self.inputs), "bias": (self.outputs,)}

    def use(self, method: "LinearMethod") -> None:
        """Computes what this rank holds by `method`."""
        self.own_method = method
        is_shared = self.summed_over.size > 1
        self.method = SummedOverRanks(method, self.summed_over) if is_shared else method

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

    @property
    def shape(self) -> torch.Size:
        """[out, in]"""
        return self.weight.shape

    @property
    def device(self) -> torch.device:
        return self.weight.device

    @property
    def nbytes(self) -> int:
        """Of the weight as it is stored."""
        return self.weight.nbytes

    def scale_inputs(self, factor: float) -> None:
        """As if its input came multiplied by `factor`. Before quantization."""
        assert self.weight_scale is None
        self.weight.data.mul_(factor)

    def scale_outputs(self, factor: float) -> None:
        """Its output comes multiplied by `factor`. Before quantization."""
        self.scale_inputs(factor)
        if self.bias is not None:
            self.bias.data.mul_(factor)

    def quantize(self, values: torch.Tensor, scale: torch.Tensor, method: "LinearMethod") -> None:
        """Stores the weight as `values` [out, in] with `scale`, which `method` computes with."""
        assert self.weight_scale is None
        self.weight, self.weight_scale = nn.Parameter(values, requires_grad=False), scale
        self.use(method)


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
        """Weight and bias of one part, as views. Before quantization."""
        assert self.weight_scale is None
        weights = self.weight.data.split(list(self.parts.values()))
        names = list(self.parts)
        if self.bias is None:
            return weights[names.index(part)], None
        biases = self.bias.data.split(list(self.parts.values()))
        return weights[names.index(part)], biases[names.index(part)]

    def scale_part(self, part: str, factor: float) -> None:
        """One part's output comes multiplied by `factor`. Before quantization."""
        for tensor in self.tensors_of(part):
            if tensor is not None:
                tensor.mul_(factor)

    def load(self, path: str, read: Read) -> None:
        """Fills the layer at `path` of the model with the tensors that `read` gives."""
        parent = path.rpartition(".")[0]
        for part in self.parts:
            (weight, bias), span = self.tensors_of(part), self.spans[part]
            weight.copy_(read(f"{parent}.{part}.weight", (span, self.inputs)))
            if bias is not None and part in self.unbiased:
                bias.zero_()
            elif bias is not None:
                bias.copy_(read(f"{parent}.{part}.bias", (span,)))


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
            q, k = rotation.apply(q), rotation.apply(k)
        destination.write(k, v)
        return q

    def quantize_input(self, x: torch.Tensor) -> torch.Tensor | QuantizedRows:
        """As `Linear.quantize_input`."""
        return x


class SummedOverRanks(LinearMethod):
    """The sum of the terms that the ranks of `group` compute, each by its own `method`.

    What a method could fuse behind its product is done behind the sum.
    """

    def __init__(self, method: LinearMethod, group: Group) -> None:
        self.own, self.group = method, group

    def product(self, layer: Linear, x: LinearInput) -> torch.Tensor:
        return self.group.all_reduce(self.own.product(layer, x))

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
