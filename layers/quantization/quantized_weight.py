"""A linear layer's weight as quantised checkpoints hold it, whatever the method that made it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch

from antiphon.families.quantization.scheme import InputScheme
from antiphon.kernels.formats import FLOAT8

FOUR_BIT_ZERO = 8  # the code of 0 where four bits have no zero points


@dataclass(frozen=True)
class QuantizedInput:
    """How the layer's input is quantised before the product, with what a checkpoint holds of it.

    `scale` and `zero` are of one number, float32: of a static scheme.
    """

    scheme: InputScheme
    scale: torch.Tensor | None = None
    zero: torch.Tensor | None = None


@dataclass(frozen=True)
class QuantizedWeight:
    """Weight [out, in] is `(values - zeros) * scales`, a scale and a zero for each output and
    group of inputs.

    `values`: float8_e4m3fn or int8 [out, in]; or uint8 [out, in / 2], codes of four bits, of which
    the first of two is in the lower half. A `codebook` [16] says what the codes stand for.
    """

    values: torch.Tensor
    scales: torch.Tensor  # [out, groups], of a floating dtype
    zeros: torch.Tensor | None = None  # [out, groups], of any dtype; None: FOUR_BIT_ZERO, or 0
    group_size: int = 0  # inputs of a group, in their order; 0: all are one group
    group_of: torch.Tensor | None = None  # [in] int: the group of each input, where it isn't so
    codebook: torch.Tensor | None = None
    inputs: QuantizedInput | None = None  # None: they stay in the model's precision

    @property
    def has_four_bits(self) -> bool:
        return self.values.dtype == torch.uint8

    @property
    def shape(self) -> torch.Size:
        """[out, in]"""
        rows, columns = self.values.shape
        return torch.Size((rows, columns * 2 if self.has_four_bits else columns))

    @property
    def has_whole_zeros(self) -> bool:
        """Whether the numbers less their zeros are whole; float8 numbers aside."""
        return self.zeros is None or not self.zeros.is_floating_point()

    @property
    def one_scale_per_output(self) -> bool:
        return self.scales.shape[1] == 1

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> list[torch.Tensor]:
        held = (getattr(self, field.name) for field in fields(self))
        return [value for value in held if isinstance(value, torch.Tensor)]

    def to(self, device: torch.device) -> Self:
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        inputs = self.inputs
        if inputs is not None and inputs.scale is not None:
            zero = None if inputs.zero is None else inputs.zero.to(device)
            inputs = replace(inputs, scale=inputs.scale.to(device), zero=zero)
        return replace(self, **moved, inputs=inputs)

    def codes(self) -> torch.Tensor:
        """[out, in]: the stored numbers, each in an element of its own."""
        if not self.has_four_bits:
            return self.values
        return torch.stack((self.values & 15, self.values >> 4), dim=-1).flatten(1)

    def groups(self) -> torch.Tensor:
        """[in] int64: the group of each input."""
        if self.group_of is not None:
            return self.group_of.long()
        inputs = torch.arange(self.shape[1], device=self.values.device)
        return inputs // (self.group_size or self.shape[1])

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight [out, in] that this stands for."""
        numbers = _float8_numbers(self.values) if self.values.dtype == FLOAT8 else self.codes()
        if self.codebook is not None:
            numbers = self.codebook[numbers.long()]
        return ((numbers.float() - self._zeros()) * self._by_input(self.scales)).to(dtype)

    def _zeros(self) -> torch.Tensor | float:
        if self.zeros is not None:
            return self._by_input(self.zeros)
        return FOUR_BIT_ZERO if self.has_four_bits and self.codebook is None else 0

    def _by_input(self, by_group: torch.Tensor) -> torch.Tensor:
        """[out, groups] -> float32 [out, in], or [out, 1]"""
        by_group = by_group.float()
        return by_group if by_group.shape[1] == 1 else by_group[:, self.groups()]

    # -------------------------------------------------------- other weights, made of this one

    def rows(self, index: torch.Tensor | slice) -> Self:
        """Only these outputs, in this order."""
        zeros = None if self.zeros is None else self.zeros[index]
        return replace(self, values=self.values[index], scales=self.scales[index], zeros=zeros)

    def scaled(self, factor: torch.Tensor | float) -> Self:
        """Multiplied by `factor`: one number, or one of each output [out]."""
        if isinstance(factor, torch.Tensor):
            factor = factor.to(self.scales)[:, None]
        return replace(self, scales=self.scales * factor)

    def can_stack(self, other: "QuantizedWeight") -> bool:
        """Whether both can be rows of one weight."""
        return (
            self.values.dtype == other.values.dtype
            and self.values.shape[1] == other.values.shape[1]
            and self.scales.shape[1] == other.scales.shape[1]
            and self.scales.dtype == other.scales.dtype
            and (self.zeros is None) == (other.zeros is None)
            and self.group_size == other.group_size
            and _equal(self.group_of, other.group_of)
            and _equal(self.codebook, other.codebook)
            and _same_inputs(self.inputs, other.inputs)
        )

    @classmethod
    def stacked(cls, weights: Sequence["QuantizedWeight"]) -> "QuantizedWeight":
        """One below the other: weights that `can_stack`."""
        first = weights[0]
        zeros = [weight.zeros for weight in weights if weight.zeros is not None]
        return replace(
            first,
            values=torch.cat([weight.values for weight in weights]),
            scales=torch.cat([weight.scales for weight in weights]),
            zeros=torch.cat(zeros) if zeros else None,
        )

    def damage(self) -> str:
        """What makes it no weight at all; empty where it is one."""
        if not bool(torch.isfinite(self.scales.float()).all()):
            return "scales that are NaN or infinite"
        if self.values.dtype == FLOAT8:
            bits = self.values.view(torch.uint8) & 127  # all ones: NaN
            return "values that are NaN" if bool((bits == 127).any()) else ""
        return ""


def _float8_numbers(values: torch.Tensor) -> torch.Tensor:
    """float32. A CPU converts slowly: it looks each of the 256 numbers up (a million: 4 ms, not
    20)."""
    if values.device.type != "cpu":
        return values.float()
    table = torch.arange(256).to(torch.uint8).view(FLOAT8).float()
    bits = values.contiguous().view(torch.uint8).flatten().int()
    return table.index_select(0, bits).view(values.shape)


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other)


def _same_inputs(one: QuantizedInput | None, other: QuantizedInput | None) -> bool:
    if one is None or other is None:
        return one is other
    return (
        one.scheme == other.scheme
        and _equal(one.scale, other.scale)
        and _equal(one.zero, other.zero)
    )
