"""Weights with a scale for each group of inputs, in the layout that our kernel reads."""

from dataclasses import dataclass

import torch

from antiphon.layers.quantization.quantized_weight import FOUR_BIT_ZERO, QuantizedWeight

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
        has_whole_zeros = weight.zeros is None or not weight.zeros.is_floating_point()
        return weight.codebook is None and has_whole_zeros and _block(weight) > 0

    @classmethod
    def of(cls, weight: QuantizedWeight) -> "BlockedWeight":
        block, groups = _block(weight), weight.groups()
        order, group_of_block = _places(groups, block)
        codes, own = weight.codes(), order
        if torch.equal(order, torch.arange(len(groups), device=order.device)):
            order = None
        else:
            codes = _rearranged(weight, codes, order, group_of_block.repeat_interleave(block))
            order = own.clamp(min=0).int()
        words = codes.unflatten(1, (-1, block)).transpose(0, 1)  # [blocks, out, block]
        if weight.has_four_bits:
            words = _four_in_a_word(words)
        scales = weight.scales
        if scales.dtype not in (torch.float16, torch.bfloat16):
            scales = scales.float()
        parts = [scales] if weight.zeros is None else [scales, weight.zeros.to(scales.dtype)]
        by_block = [_by_block(part, group_of_block) for part in parts]
        return cls(words.contiguous(), torch.stack(by_block), order, block)


def _block(weight: QuantizedWeight) -> int:
    """Inputs of a block of the kernel: a group, or a part of it; 0 where none is one."""
    possible = BLOCKS_OF_FOUR_BITS if weight.has_four_bits else BLOCKS
    if not weight.group_size:  # one scale of all inputs: the last block may be filled up
        fitting = (block for block in possible if weight.shape[1] % block == 0)
        return next(fitting, possible[-1])
    return next((block for block in possible if weight.group_size % block == 0), 0)


def _places(groups: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs in the order of their `groups` [in], each group filled up to whole blocks: the input
    of each place, or -1, and the group of each block."""
    inputs, counts = torch.sort(groups, stable=True).indices, torch.bincount(groups)
    blocks = -(-counts // block)
    first_places = (torch.cumsum(blocks, 0) - blocks) * block
    first_inputs = torch.cumsum(counts, 0) - counts
    group = groups[inputs]
    within = torch.arange(len(groups), device=groups.device) - first_inputs[group]
    order = torch.full((int(blocks.sum()) * block,), -1, device=groups.device)
    order[first_places[group] + within] = inputs
    return order, torch.arange(len(counts), device=groups.device).repeat_interleave(blocks)


def _rearranged(
    weight: QuantizedWeight, codes: torch.Tensor, order: torch.Tensor, groups: torch.Tensor
) -> torch.Tensor:
    """`codes` [out, in] in their `order` [places], with the code of 0 where that is negative.
    `groups` [places]: the group of each place."""
    placed = codes.view(torch.uint8)[:, order.clamp(min=0)]
    if bool((order < 0).any()):
        placed = torch.where(order < 0, _zero_codes(weight)[:, groups], placed)
    return placed.view(codes.dtype)


def _zero_codes(weight: QuantizedWeight) -> torch.Tensor:
    """[out, groups] uint8: the bits of a weight of 0."""
    if weight.zeros is not None:
        zeros = weight.zeros.to(torch.int16).to(torch.uint8)
    else:
        zero = FOUR_BIT_ZERO if weight.has_four_bits else 0
        zeros = torch.full_like(weight.scales, zero, dtype=torch.uint8)
    return zeros if zeros.shape[1] > 1 else zeros.expand(-1, int(weight.groups().max()) + 1)


def _by_block(by_group: torch.Tensor, group_of_block: torch.Tensor) -> torch.Tensor:
    """[out, groups] -> [blocks, out]"""
    if by_group.shape[1] == 1:
        return by_group.t().expand(len(group_of_block), -1)
    return by_group.t()[group_of_block]


def _four_in_a_word(codes: torch.Tensor) -> torch.Tensor:
    """[blocks, out, block] uint8 -> [blocks, out, block / 4] int16"""
    parts = codes.unflatten(-1, (CODES_OF_WORD, -1)).int()
    bits = [parts[..., place, :] << 4 * place for place in range(CODES_OF_WORD)]
    return (bits[0] | bits[1] | bits[2] | bits[3]).to(torch.int16)
