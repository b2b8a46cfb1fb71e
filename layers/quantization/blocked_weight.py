"""Weights with a scale for each group of inputs, in the layout that our kernel reads."""

from dataclasses import dataclass

import torch

from antiphon.layers.quantization.ordering import in_order
from antiphon.layers.quantization.quantized_weight import QuantizedWeight

BLOCKS = (128, 64, 32)  # inputs that may share a scale in the kernel, the best first
BLOCKS_OF_FOUR_BITS = BLOCKS[:2]
CODES_OF_WORD = 4


@dataclass(frozen=True)
class BlockedWeight:
    """Blocks of inputs with a scale for each output; as `kernels/grouped_linear.py` takes them.

    Groups whose inputs are in any order become whole blocks, filled up with weights of 0.
    """

    words: torch.Tensor  # [blocks, out, words]
    scales: torch.Tensor  # [1, blocks, out]; with zero points [2, blocks, out], those the second
    order: torch.Tensor | None  # [blocks * block] int32: the input of each place; None: its own
    block: int

    @staticmethod
    def suits(weight: QuantizedWeight) -> bool:
        """Whether blocks fit into the groups of `weight`."""
        return weight.codebook is None and weight.has_whole_zeros and _block(weight) > 0

    @classmethod
    def of(cls, weight: QuantizedWeight) -> "BlockedWeight":
        ordered, order = in_order(weight, block := _block(weight))
        words = ordered.codes().unflatten(1, (-1, block)).transpose(0, 1)  # [blocks, out, block]
        if weight.has_four_bits:
            words = _four_in_a_word(words)
        scales = ordered.scales
        if scales.dtype not in (torch.float16, torch.bfloat16):
            scales = scales.float()
        parts = [scales] if ordered.zeros is None else [scales, ordered.zeros.to(scales.dtype)]
        by_block = torch.stack(parts).transpose(1, 2).contiguous()
        return cls(words.contiguous(), by_block, None if order is None else order.int(), block)


def _block(weight: QuantizedWeight) -> int:
    """Inputs of a block of the kernel: a group, or a part of it; 0 where none is one."""
    possible = BLOCKS_OF_FOUR_BITS if weight.has_four_bits else BLOCKS
    if not weight.group_size:  # one scale of all inputs: the last block may be filled up
        fitting = (block for block in possible if weight.shape[1] % block == 0)
        return next(fitting, possible[-1])
    return next((block for block in possible if weight.group_size % block == 0), 0)


def _four_in_a_word(codes: torch.Tensor) -> torch.Tensor:
    """[blocks, out, block] uint8 -> [blocks, out, block / 4] int16"""
    parts = codes.unflatten(-1, (CODES_OF_WORD, -1)).int()
    bits = [parts[..., place, :] << 4 * place for place in range(CODES_OF_WORD)]
    return (bits[0] | bits[1] | bits[2] | bits[3]).to(torch.int16)
