"""Linear layers, in the model's precision or quantised, and activations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from antiphon.kernels.formats import SMALL_BATCH
from antiphon.layers.eight_bit import Float8Weight, Int8Weight, Quantised


@dataclass(frozen=True)
class Normed:
    """`norm` of `x` [tokens, features], left to the linear layer that reads it."""

    x: torch.Tensor
    norm: Any  # LayerNorm or RMSNorm

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Parts:
    """A linear layer's output, over parts of its inputs, without its bias: whoever reads it sums that up."""

    sums: torch.Tensor  # [parts, tokens, features] float32
    bias: torch.Tensor | None

    def total(self, dtype: torch.dtype) -> torch.Tensor:
        found = self.sums.sum(0)
        return (found if self.bias is None else found + self.bias).to(dtype)


Added = torch.Tensor | Parts | None  # what a norm adds to its input before: [tokens, hidden]
SOME_ROWS = 256  # up to which a product of many inputs is cut into PARTS: there are too few tiles of outputs to fill the device
PARTS, MANY_INPUTS = 4, 5120
Features = torch.Tensor | Quantised | Normed  # [tokens, features], as a linear layer takes them


class Linear(nn.Module):
    """`x @ weight.T + bias`. After `quantise` the weight is an eight-bit one in place of the parameter."""

    fuses_few_rows = False  # with what lies around it, in a kernel of our own

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.weight: torch.Tensor | Float8Weight | Int8Weight
        self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None

    def forward(self, x: Features, activation: "Activation | None" = None) -> Any:
        """[tokens, in] -> [tokens, out]; with an `activation`, what that makes of it."""
        if self.fuses(x):
            return self._few_rows(x, activation=activation)
        given = x.norm(x.x) if isinstance(x, Normed) else x
        if isinstance(self.weight, torch.Tensor):
            assert isinstance(given, torch.Tensor)
            return activated_product(given, self.weight, self.bias, activation)
        found = self.weight.product(given, self.bias)
        return found if activation is None else activation(found)

    def plus(self, x: Features, residual: torch.Tensor) -> torch.Tensor:
        """`residual` [tokens, out] plus this layer's output; only where `fuses(x)`."""
        return self._few_rows(x, residual=residual)

    def in_parts(self, x: torch.Tensor) -> Parts:
        """This layer's output, for a norm to sum; only where `divides(x)`. cuBLAS would cut the product up too, but needs a kernel
        more to sum (1280 of 5120 features, 32 rows: 9.2 us together, this 6.4, on an H200)."""
        assert isinstance(self.weight, torch.Tensor)
        size = x.shape[1] // PARTS
        left, right = (
            x.unflatten(1, (PARTS, size)).transpose(0, 1),
            self.weight.unflatten(1, (PARTS, size)).permute(1, 2, 0),
        )
        return Parts(torch.bmm(left, right, out_dtype=torch.float32), self.bias)

    def queries(
        self, x: Features, pages: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Of a layer that makes queries, keys and values: the first [tokens, out / 3]; the others go into `pages` (keys and values
        [slots, heads, head_dim], and slots [tokens]). Only where `fuses(x)`."""
        return self._few_rows(x, pages=pages)

    def prepared(self, x: torch.Tensor) -> torch.Tensor | Quantised:
        """`x` in the form that this layer would bring it into: for several layers like it to read."""
        return x if isinstance(self.weight, torch.Tensor) else self.weight.prepared(x)

    def fuses(self, x: Features) -> bool:
        """Goes through the kernel for few rows."""
        return self.fuses_few_rows and not isinstance(x, Quantised) and len(x) <= SMALL_BATCH

    def divides(self, x: Features) -> bool:
        """Is better computed `in_parts`."""
        if not (
            self.fuses_few_rows
            and isinstance(self.weight, torch.Tensor)
            and isinstance(x, torch.Tensor)
        ):
            return False
        return (
            self.shape[1] >= max(MANY_INPUTS, 2 * self.shape[0])
            and SMALL_BATCH < len(x) <= SOME_ROWS
        )

    def _few_rows(
        self, x: Features, activation: "Activation | None" = None, **around: Any
    ) -> torch.Tensor:
        from antiphon.kernels.few_rows_linear import linear  # Triton is there where CUDA is

        assert not isinstance(x, Quantised)
        assert not isinstance(self.weight, Float8Weight)
        scales = None if isinstance(self.weight, torch.Tensor) else self.weight.scales
        given, norm = (x.x, x.norm) if isinstance(x, Normed) else (x, None)
        before = None if norm is None else (norm.weight, getattr(norm, "bias", None), norm.eps)
        kind = None if activation is None else activation.kind
        return linear(
            given, self._stored, self.bias, scales=scales, norm=before, activation=kind, **around
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the output."""
        return self.weight.dtype

    @property
    def shape(self) -> torch.Size:
        """[out, in]"""
        return self._stored.shape

    @property
    def device(self) -> torch.device:
        return self._stored.device

    @property
    def nbytes(self) -> int:
        """Of the weight as it is stored."""
        return self._stored.nbytes

    @property
    def _stored(self) -> torch.Tensor:
        return self.weight if isinstance(self.weight, torch.Tensor) else self.weight.values

    def scale_inputs(self, factor: float) -> None:
        """As if its input came multiplied by `factor`. Before `quantise`."""
        assert isinstance(self.weight, nn.Parameter)
        self.weight.data.mul_(factor)

    def scale_outputs(self, factor: float) -> None:
        """Its output comes multiplied by `factor`. Before `quantise`."""
        self.scale_inputs(factor)
        if self.bias is not None:
            self.bias.data.mul_(factor)

    def quantise(self, kind: type[Float8Weight] | type[Int8Weight]) -> None:
        assert isinstance(self.weight, torch.Tensor)
        weight = self.weight.data
        del self.weight  # the parameter
        self.weight = kind.of(weight)


class StackedLinear(Linear):
    """Several projections of the same input as one matrix product: query, key and value, or gate and up.

    A checkpoint stores them apart as `<parent>.<part>.weight`; the loader stacks them row by row, in order of `parts`.
    `unbiased` parts have no bias there and get zeros (Whisper's key projection).
    """

    def __init__(
        self,
        in_features: int,
        out_features: dict[str, int],
        bias: bool,
        unbiased: tuple[str, ...] = (),
    ) -> None:
        super().__init__(in_features, sum(out_features.values()), bias)
        self.parts, self.unbiased = out_features, unbiased

    def split(self, x: Features) -> tuple[torch.Tensor, ...]:
        """[tokens, in] -> one [tokens, out] per part (views of one buffer)."""
        found: torch.Tensor = self(x)
        return found.split(list(self.parts.values()), dim=-1)

    def tensors_of(self, part: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias of one part, views. Before `quantise`."""
        assert isinstance(self.weight, nn.Parameter)
        names = list(self.parts)
        rows = slice(
            start := sum(self.parts[name] for name in names[: names.index(part)]),
            start + self.parts[part],
        )
        return self.weight.data[rows], None if self.bias is None else self.bias.data[rows]

    def scale_part(self, part: str, factor: float) -> None:
        """One part's output comes multiplied by `factor`. Before `quantise`."""
        for each in self.tensors_of(part):
            if each is not None:
                each.mul_(factor)


KINDS = {
    "relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "silu": "silu", "swish": "silu",
}  # fmt: skip
_IN_TORCH: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


def activated_product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: "Activation | None",
) -> Any:
    """`activation(x @ weight.T + bias)` [tokens, out] for `x` [tokens, in].

    In half precision on a GPU, cuBLAS applies it where it has the product in registers. Its GELU is the tanh form, within 5e-4 of
    the exact one: less than what rounding the product to half precision first does.
    """
    if activation is None:
        return F.linear(x, weight, bias)
    half = x.device.type == "cuda" and x.dtype != torch.float32
    if (
        half
        and bias is not None
        and activation.kind in ("relu", "gelu", "gelu_tanh")
        and not activation.quantises
    ):
        return torch._addmm_activation(bias, x, weight.t(), use_gelu=activation.kind != "relu")
    return activation(F.linear(x, weight, bias))


class Activation(nn.Module):
    """By transformers' name; with a gate, the product of both (Shazeer 2020)."""

    quantises = False  # its output goes into a quantised linear layer

    def __init__(self, name: str) -> None:
        super().__init__()
        self.kind = KINDS[name]

    def forward(
        self, x: torch.Tensor, gate: torch.Tensor | None = None
    ) -> torch.Tensor | Quantised:
        """[tokens, features], rows contiguous."""
        if x.device.type == "cuda" and x.dtype != torch.float32:
            from antiphon.kernels.norms import (  # Triton is there where CUDA is
                activation,
                activation_quantised,
            )

            if not self.quantises:
                return activation(self.kind, x, gate)
            # The tanh form is cheaper and within 5e-4 of the exact one: far less than a step of float8.
            return Quantised(
                *activation_quantised("gelu_tanh" if self.kind == "gelu" else self.kind, x, gate)
            )
        found = _IN_TORCH[self.kind](x)
        return found if gate is None else found * gate
