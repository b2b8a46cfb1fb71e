"""Weights whose groups have inputs in any order, made into ones whose groups follow each other."""

from dataclasses import replace

import torch

from antiphon.layers.quantization.quantized_weight import FOUR_BIT_ZERO, QuantizedWeight


def in_order(weight: QuantizedWeight, block: int) -> tuple[QuantizedWeight, torch.Tensor | None]:
    """`weight` in groups of `block` inputs, which follow each other, and the input of each place
    [places] int64; None where the places are those of the inputs.

    A group becomes whole blocks, filled up with weights of 0: a product with them takes some input
    more than once, and multiplies it by 0.
    """
    groups = weight.groups()
    order, group_of_block = _places(groups, block)
    codes = weight.codes()
    in_place = torch.equal(order, torch.arange(len(groups), device=order.device))
    if not in_place:
        codes = _rearranged(weight, codes, order, group_of_block.repeat_interleave(block))
    if weight.has_four_bits:
        codes = codes[:, ::2] | codes[:, 1::2] << 4
    changed = replace(
        weight,
        values=codes,
        scales=_of_groups(weight.scales, group_of_block),
        zeros=None if weight.zeros is None else _of_groups(weight.zeros, group_of_block),
        group_size=block,
        group_of=None,
    )
    return changed, None if in_place else order.clamp(min=0)


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
        placed = torch.where(order < 0, _of_groups(_zero_codes(weight), groups), placed)
    return placed.view(codes.dtype)


def _zero_codes(weight: QuantizedWeight) -> torch.Tensor:
    """[out, groups] uint8: the bits of a weight of 0."""
    if weight.zeros is not None:
        return weight.zeros.to(torch.int16).to(torch.uint8)
    zero = FOUR_BIT_ZERO if weight.has_four_bits else 0
    return torch.full_like(weight.scales, zero, dtype=torch.uint8)


def _of_groups(by_group: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """[out, groups], or [out, 1] for all of them, at `groups` [n] -> [out, n]"""
    if by_group.shape[1] == 1:
        return by_group.expand(-1, len(groups))
    return by_group[:, groups]
