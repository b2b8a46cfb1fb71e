"""Memory for pages."""

import math

import numpy as np
import torch


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros, because a masked key's weight of zero still multiplies its value, which
    must not be NaN. On a CPU they come from calloc: a page costs memory once it is
    written, so a roomy pool is cheap.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return (
        torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8))
        .view(dtype)
        .view(shape)
    )
