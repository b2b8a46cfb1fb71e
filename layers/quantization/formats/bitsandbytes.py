"""bitsandbytes' stored forms: NF4 and FP4 (Dettmers et al. 2023), and LLM.int8 (2022).

Four bits: `weight` is the flattened weight, two codes a byte, the first in the upper half. Every
`blocksize` of them in a row, whatever rows of the weight they are in, share a factor: their largest
magnitude `weight.absmax`, itself of eight bits with factors of its own where it was quantised
twice. `weight.quant_map` says what each code stands for.

Eight bits: `weight` [out, in] int8, `SCB` [out]: the largest magnitude of each row.
"""

import json
from collections.abc import Container
from typing import Any

import torch

from antiphon.config.errors import CheckpointError, UnsupportedModelError
from antiphon.kernels.formats import INT8, INT8_MAX
from antiphon.layers.quantization.formats.interface import Format, Tensors, existing
from antiphon.layers.quantization.formats.packing import in_halves
from antiphon.layers.quantization.formats.scales import own_group_of, own_groups
from antiphon.layers.quantization.quantized_weight import QuantizedWeight
from antiphon.layers.shard import Spans

STATES = ("weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4")
FACTORS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
OF_FOUR_BITS = (*STATES, *(f"weight.{name}" for name in FACTORS))


class BitsAndBytes(Format):
    def names(self, layer: str, tensors: Container[str]) -> tuple[str, ...]:
        """A weight without any of these is not quantised, whatever config.json says."""
        four = existing(layer, OF_FOUR_BITS, tensors)
        eight = existing(layer, ("SCB", "weight_format"), tensors)
        return (f"{layer}.weight", *four, *eight) if four or eight else ()

    def read(self, layer: str, tensors: Tensors, spans: Spans) -> QuantizedWeight:
        if f"{layer}.SCB" in tensors:
            return _eight_bits(layer, tensors, spans)
        return _four_bits(layer, tensors, spans)


def _eight_bits(layer: str, tensors: Tensors, spans: Spans) -> QuantizedWeight:
    order = f"{layer}.weight_format"
    if order in tensors and (form := int(tensors.tensor(order))) != 0:
        raise UnsupportedModelError(
            f"{order} is {form}: only rows in their order, 0, are read; load and save the model "
            "with bitsandbytes 0.45 or newer"
        )
    values = tensors.block(f"{layer}.weight", spans)
    if values.dtype != INT8:
        raise CheckpointError(f"{layer}.weight is stored as {values.dtype}, and has an SCB: {INT8}")
    scales = tensors.block(f"{layer}.SCB", spans[:1]).float()[:, None] / INT8_MAX
    return QuantizedWeight(values, scales)


def _four_bits(layer: str, tensors: Tensors, spans: Spans) -> QuantizedWeight:
    outputs, inputs = spans
    state = _state(layer, tensors)
    if state["shape"] != [outputs.total, inputs.total]:
        raise CheckpointError(
            f"{layer}.weight is of {state['shape']}; config.json asks for "
            f"{[outputs.total, inputs.total]}"
        )
    if inputs.count % 2:
        raise UnsupportedModelError(f"{layer}.weight has an odd number of inputs: {inputs.count}")
    codes = _codes(tensors.tensor(f"{layer}.weight"))[: outputs.total * inputs.total]
    own = codes.view(outputs.total, inputs.total)[outputs.slice, inputs.slice]
    scales, size, group_of = _scales(_factors(layer, tensors, state), state["blocksize"], spans)
    codebook = tensors.tensor(f"{layer}.weight.quant_map").float()
    return QuantizedWeight(in_halves(own), scales, None, size, group_of, codebook)


def _scales(
    factors: torch.Tensor, size: int, spans: Spans
) -> tuple[torch.Tensor, int, torch.Tensor | None]:
    """`scales`, `group_size` and `group_of` of a `QuantizedWeight`."""
    outputs, inputs = spans
    if inputs.total % size == 0:
        table = factors.view(outputs.total, -1)[outputs.slice, own_groups(inputs, size)]
        return table.contiguous(), size, own_group_of(inputs, size)
    # Blocks begin inside rows, each in another place: a group for each number. Rare, and large.
    rows = torch.arange(outputs.first, outputs.end)[:, None]
    numbers = rows * inputs.total + torch.arange(inputs.first, inputs.end)
    return factors[numbers // size], 1, None


def _state(layer: str, tensors: Tensors) -> dict[str, Any]:
    names = existing(layer, STATES, tensors)
    if not names:
        raise CheckpointError(f"the checkpoint lacks {layer}.{STATES[0]}, or fp4")
    try:
        state = json.loads(bytes(tensors.tensor(names[0]).tolist()))
        sizes = {"shape": list(state["shape"]), "blocksize": int(state["blocksize"])}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot read {names[0]}: {error!r}") from None
    return {**state, **sizes}


def _codes(stored: torch.Tensor) -> torch.Tensor:
    """[numbers] uint8; bytes may be stored as wider numbers."""
    two = stored.contiguous().view(torch.uint8).flatten()
    return torch.stack((two >> 4, two & 15), dim=-1).flatten()


def _factors(layer: str, tensors: Tensors, state: dict[str, Any]) -> torch.Tensor:
    """[blocks] float32"""
    factors = tensors.tensor(f"{layer}.weight.absmax")
    if f"{layer}.weight.nested_absmax" not in tensors:
        return factors.float()
    levels = tensors.tensor(f"{layer}.weight.nested_quant_map").float()
    outer = tensors.tensor(f"{layer}.weight.nested_absmax").float()
    blocks = torch.arange(len(factors)) // int(state["nested_blocksize"])
    return levels[factors.long()] * outer[blocks] + float(state["nested_offset"])
