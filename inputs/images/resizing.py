"""Pillow's resizing of 8-bit pictures, on any device: the same gray levels.

Pillow multiplies levels by weights of 22 binary digits and rounds behind each axis (its
Resample.c). Products of matrices do the same here: each weight in two parts, whose sums float32
holds exactly.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Literal

import numpy as np
import torch

from antiphon.runtime.device import together_to_device

Size = tuple[int, int]  # height and width
Filter = Literal["bilinear", "bicubic"]
FILTERS: tuple[Filter, ...] = ("bilinear", "bicubic")
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
SHARPNESS = -0.5  # Pillow's parameter of the cubic (Keys 1981)
DIGITS, LOW_DIGITS = 22, 11  # of a weight, and of its lower part
WHITE = 255
KEPT = 64  # weights


@dataclass(frozen=True)
class Weights:
    """Of each of `size` outputs for the `neighbours` inputs from `first` on: int64."""

    first: np.ndarray  # [size]
    weights: np.ndarray  # [size, neighbours], zeros behind the last input

    @property
    def neighbours(self) -> int:
        return self.weights.shape[1]


def resize(levels: torch.Tensor, size: Size, kind: Filter, rows_first: bool) -> torch.Tensor:
    """Gray levels as float32 [channels, height, width] -> [channels, *size]. `rows_first`: the
    height is changed before the width."""
    for along_rows in (rows_first, not rows_first):
        axis = 0 if along_rows else 1
        length = levels.shape[axis + 1]
        if length == size[axis]:
            continue
        high, low = _matrices(weights(length, size[axis], kind), length, levels.device)
        sums = (high.T @ levels, low.T @ levels) if along_rows else (levels @ high, levels @ low)
        whole = (sums[0].long() << LOW_DIGITS) + sums[1].long() + (1 << (DIGITS - 1))
        levels = (whole >> DIGITS).clamp_(0, WHITE).float()
    return levels


@lru_cache(KEPT)
def weights(length: int, size: int, kind: Filter) -> Weights:
    """For `length` inputs and `size` outputs."""
    scale = length / size
    stretch = max(scale, 1.0)
    reach = SUPPORT[kind] * stretch
    center = (np.arange(size) + 0.5) * scale
    first = np.maximum((center - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((center + reach + 0.5).astype(np.int64), length)
    number = first[:, None] + np.arange(2 * ceil(reach) + 1)
    values = _curve((number - center[:, None] + 0.5) / stretch, kind)
    values = np.where(number < end[:, None], values, 0.0)
    values /= values.sum(1, keepdims=True)
    scaled = values * (1 << DIGITS)
    return Weights(first, np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int64))


def _curve(x: np.ndarray, kind: Filter) -> np.ndarray:
    x = np.abs(x)
    if kind == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    near = ((SHARPNESS + 2.0) * x - (SHARPNESS + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * SHARPNESS
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _matrices(
    sparse: Weights, length: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The upper and the lower digits of all weights, float32 [length, size] each."""
    high = (sparse.weights + (1 << (LOW_DIGITS - 1))) >> LOW_DIGITS
    parts = np.stack([high, sparse.weights - (high << LOW_DIGITS)]).astype(np.float32)
    number = sparse.first[:, None] + np.arange(sparse.neighbours)
    # What is behind the last input has a place of its own, which is cut off.
    inside, values = together_to_device([np.minimum(number, length), parts], device)
    dense = torch.zeros(2, len(number), length + 1, device=device)
    dense.scatter_(2, inside.expand(2, -1, -1), values)
    both = dense[..., :length].transpose(1, 2)
    return both[0], both[1]
