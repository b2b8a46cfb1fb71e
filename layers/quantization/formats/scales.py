"""Scales of blocks of a weight, as one for each output and group of inputs that a rank holds."""

import torch

from antiphon.config.errors import CheckpointError
from antiphon.families.quantization.scheme import EVERY
from antiphon.layers.shard import Span, Spans


def by_output(
    name: str, stored: torch.Tensor, block: tuple[int, int], spans: Spans
) -> torch.Tensor:
    """[own outputs, own groups] of scales or zero points `stored`, one for each `block` of the
    weight. Raises CheckpointError for a tensor of another shape."""
    (rows, columns), (outputs, inputs) = block, spans
    expected = (_blocks(outputs, rows), _blocks(inputs, columns))
    if stored.numel() != expected[0] * expected[1]:
        raise CheckpointError(
            f"{name} has shape {list(stored.shape)}, and quantization_config asks for "
            f"{list(expected)} of a weight {[outputs.total, inputs.total]}"
        )
    table = stored.reshape(expected)
    numbers = torch.arange(outputs.first, outputs.end)
    own = table[numbers // (rows or outputs.total)]
    return own[:, own_groups(inputs, columns)].contiguous()


def own_groups(inputs: Span, size: int) -> slice:
    """The groups of `size` inputs that any of `inputs` is in."""
    if size == EVERY:
        return slice(0, 1)
    return slice(inputs.first // size, -(-inputs.end // size))


def own_group_of(inputs: Span, size: int) -> torch.Tensor | None:
    """[own inputs]: the group of each, from the first that is held; None where they begin with a
    group, so that their order tells."""
    if size == EVERY or inputs.first % size == 0:
        return None
    numbers = torch.arange(inputs.first, inputs.end)
    return (numbers // size - inputs.first // size).int()


def _blocks(span: Span, size: int) -> int:
    return 1 if size == EVERY else -(-span.total // size)
