"""What a linear layer holds: its weight, plain or quantised, and its bias."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

from antiphon.layers.quantization.quantized_weight import QuantizedWeight
from antiphon.layers.reading import Read, Weight
from antiphon.layers.shard import Span

# Of this thread alone: others may build models at the same time.
_without_memory: ContextVar[bool] = ContextVar("without_memory", default=False)


@contextmanager
def weights_without_memory() -> Iterator[None]:
    """Layers that are built inside have no memory for their weights before they are filled."""
    token = _without_memory.set(True)
    try:
        yield
    finally:
        _without_memory.reset(token)


class HeldWeight(nn.Module):
    """`weight` [out, in] and `bias` [out], of `outputs` and `inputs`.

    Of a quantised checkpoint the weight is `quantized`, until a method takes it in a form of its
    own: then that is `weight`, with `weight_scale`.
    """

    def __init__(self, inputs: Span, outputs: Span, bias: bool) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        zeros = torch.zeros(outputs.count)
        self.built_on = zeros.device
        memory = torch.device("meta") if _without_memory.get() else self.built_on
        weight = torch.empty(outputs.count, inputs.count, device=memory)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.weight_scale: torch.Tensor | None = None
        self.quantized: QuantizedWeight | None = None
        self.bias = nn.Parameter(zeros, requires_grad=False) if bias else None

    def load(self, path: str, read: Read) -> None:
        """Fills the layer at `path` of the model with what `read` gives."""
        self.fill(read.weight(f"{path}.weight", (self.outputs, self.inputs)))
        if self.bias is not None:
            self.bias.copy_(read(f"{path}.bias", (self.outputs,)))

    def fill(self, weight: Weight) -> None:
        """Holds `weight` [out, in], plain numbers or a checkpoint's quantised ones."""
        if isinstance(weight, QuantizedWeight):
            self.quantized = weight.to(self.built_on)
            nothing = torch.empty(0, dtype=self.weight.dtype, device=self.built_on)
            self.weight = nn.Parameter(nothing, requires_grad=False)
        else:
            self.allocate()
            self.weight.copy_(weight)

    def allocate(self) -> None:
        """Memory for a weight that was built `weights_without_memory`."""
        if self.weight.is_meta and self.built_on.type != "meta":
            memory = torch.empty_like(self.weight, device=self.built_on)
            self.weight = nn.Parameter(memory, requires_grad=False)

    def numbers(self) -> torch.Tensor:
        """The weight [out, in] as plain numbers. Before quantization."""
        assert self.weight_scale is None
        if self.quantized is None:
            return self.weight.data
        return self.quantized.dequantized(torch.float32)

    @property
    def shape(self) -> torch.Size:
        """[out, in]"""
        return torch.Size((self.outputs.count, self.inputs.count))

    @property
    def device(self) -> torch.device:
        return self.weight.device

    @property
    def nbytes(self) -> int:
        """Of the weight as it is stored, with its scales."""
        scale = 0 if self.weight_scale is None else self.weight_scale.nbytes
        return self.weight.nbytes + scale + (self.quantized.nbytes if self.quantized else 0)

    def scale_inputs(self, factor: float) -> None:
        """As if its input came multiplied by `factor`. Before quantization."""
        assert self.weight_scale is None
        if self.quantized is not None:
            self.quantized = self.quantized.scaled(factor)
        else:
            self.weight.data.mul_(factor)

    def scale_outputs(self, factor: float) -> None:
        """Its output comes multiplied by `factor`. Before quantization."""
        self.scale_inputs(factor)
        if self.bias is not None:
            self.bias.data.mul_(factor)

    def store(self, values: torch.Tensor, scale: torch.Tensor) -> None:
        """The weight as `values` with `scale`, in the form that a method computes with."""
        assert self.weight_scale is None
        self.quantized = None
        self.weight, self.weight_scale = nn.Parameter(values, requires_grad=False), scale
