"""Weights with a scale for each group of inputs, in the layout that our kernel reads."""

from dataclasses import dataclass

import torch

from antiphon.layers.quantization.quantized_weight import FOUR_BIT_ZERO, QuantizedWeight

BLOCKS = (128, 64, 32)  # inputs that may share a scale in the kernel, the best first
CODES_OF_WORD = 4


@dataclass(frozen=True)
class BlockedWeight:
    """Blocks of inputs with a scale for each output; as `kernels/grouped_linear.py` takes them.

    Groups whose inputs are in any order are whole blocks, filled up with weights of 0.
    """

    words: torch.Tensor  # [blocks, out, words]
    scales: torch.Tensor  # [blocks, out]
    zeros: torch.Tensor | None  # [blocks, out]
    order: torch.Tensor | None  # [blocks * block] int32: the input of each place; None: its own
    block: int

    @classmethod
    def of(cls, weight: QuantizedWeight) -> "BlockedWeight":
        block = block_of(weight)
        groups = weight.groups()
        order, group_of_block = _filled(groups, block)
        codes = weight.codes()
        inputs, own = weight.shape[1], order >= 0
        zeros = weight.zeros
        if not torch.equal(order, torch.arange(inputs, device=order.device)):
            codes = codes.view(torch.uint8)[:, order.clamp(min=0)]
            if not bool(own.all()):
                nothing = _zero_codes(weight)[:, group_of_block.repeat_interleave(block)]
                codes = torch.where(own, codes, nothing)
            codes = codes.view(weight.codes().dtype)
            stored_order = order.clamp(min=0).int()
        else:
            stored_order = None
        words = codes.unflatten(1, (-1, block)).transpose(0, 1)  # [blocks, out, block]
        if weight.has_four_bits:
            words = _four_in_a_word(words)
        by_group = [_by_block(part, group_of_block) for part in (weight.scales, zeros)]
        scales, own_zeros = by_group
        assert scales is not None
        if own_zeros is not None:
            own_zeros = own_zeros.to(scales.dtype)
        return cls(words.contiguous(), scales, own_zeros, stored_order, block)


def _by_block(by_group: torch.Tensor | None, group_of_block: torch.Tensor) -> torch.Tensor | None:
    """[out, groups] -> [blocks, out]"""
    if by_group is None:
        return None
    if by_group.shape[1] == 1:
        return by_group.t().expand(len(group_of_block), -1).contiguous()
    return by_group.t()[group_of_block].contiguous()


def _zero_codes(weight: QuantizedWeight) -> torch.Tensor:
    """[out, groups] uint8: the bits of a weight of 0."""
    if weight.zeros is None:
        zero = FOUR_BIT_ZERO if weight.has_four_bits else 0
        return torch.full(weight.scales.shape, zero, dtype=torch.uint8, device=weight.scales.device)
    return weight.zeros.to(torch.int16).to(torch.uint8)


def _filled(groups: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs in the order of their `groups`, each group filled up to whole blocks: the input of
    each place, or -1, and the group of each block."""
    by_group, counts = torch.sort(groups, stable=True).indices, torch.bincount(groups)
    blocks = -(-counts // block)
    starts = torch.cumsum(blocks * block, 0) - blocks * block
    sorted_groups = groups[by_group]
    before = torch.cumsum(counts, 0) - counts
    within = torch.arange(len(groups), device=groups.device) - before[sorted_groups]
    order = torch.full((int(blocks.sum()) * block,), -1, device=groups.device)
    order[starts[sorted_groups] + within] = by_group
    names = torch.arange(len(counts), device=groups.device)
    return order, names.repeat_interleave(blocks)


def _four_in_a_word(codes: torch.Tensor) -> torch.Tensor:
    """[blocks, out, block] uint8 -> [blocks, out, block / 4] int16"""
    parts = codes.unflatten(-1, (CODES_OF_WORD, -1)).int()
    words = (
        parts[..., 0, :] | parts[..., 1, :] << 4 | parts[..., 2, :] << 8 | parts[..., 3, :] << 12
    )
    return words.to(torch.int16)


def block_of(weight: QuantizedWeight) -> int:
    """Inputs of a block of the kernel: all that share a group, or a part of them."""
    size = weight.group_size or weight.shape[1]
    return next((block for block in BLOCKS if size % block == 0), BLOCKS[1])
