"""Whether weights and what a half computes from them are finite: NaN would pass through
every layer and end every request with an empty text."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from antiphon.config.errors import CheckpointError


def not_finite(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether any of `tensors`, all on one device, holds NaN or an infinity. Reads each
    of them once, and waits for the device once.

    A vector may hold -inf: biases of logits forbid tokens so. Tensors without data (on
    the meta device) hold nothing.
    """
    floats = [
        tensor.detach()
        for tensor in tensors
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta
    ]
    if not floats:
        return False
    totals = torch.stack([_total(tensor) for tensor in floats]).tolist()
    return any(_is_bad(total, tensor) for total, tensor in zip(totals, floats, strict=True))


def _total(tensor: torch.Tensor) -> torch.Tensor:
    """A float32 number that is finite only if all of `tensor` is: the sum, or the
    smallest and the largest together, which a CPU finds ten times as fast in half
    precision."""
    if tensor.dtype is torch.float32:
        return tensor.sum()
    low, high = torch.aminmax(tensor)
    return low.float() + high.float()


def _is_bad(total: float, tensor: torch.Tensor) -> bool:
    is_vector = sum(size > 1 for size in tensor.shape) <= 1
    return not math.isfinite(total) and not (is_vector and total == -math.inf)


def check_output(output: torch.Tensor, half: Literal["encoder", "decoder"], folder: Path) -> None:
    """Raises CheckpointError if what `half` computed at warm-up from finite weights
    holds NaN or inf. -inf is allowed: the logits of forbidden tokens."""
    if not bool((torch.isnan(output) | (output == math.inf)).any()):
        return
    raise CheckpointError(
        f"{folder}: the {half} computes numbers that are not finite, though its weights are: they "
        "are damaged, or its activations are too large for its dtype; "
        "try dtype='bfloat16' or 'float32'"
    )
