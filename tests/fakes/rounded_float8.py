"""float8 in Triton's interpreter as hardware makes it: the nearest number. The interpreter itself
cuts digits off."""

from typing import Any

import numpy as np
import torch
from triton import language as tl
from triton.runtime import interpreter

_convert = interpreter._convert_float
_FROM = {tl.float32: np.float32, tl.float16: np.float16}


def convert(values: np.ndarray, source: Any, target: Any, rounding: Any) -> np.ndarray:
    """In place of the interpreter's own: a function that tests patch."""
    if target != tl.float8e4nv or source not in _FROM:
        converted: np.ndarray = _convert(values, source, target, rounding)
        return converted
    numbers = torch.from_numpy(np.ascontiguousarray(values).view(_FROM[source]))
    bits: np.ndarray = numbers.to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    return bits.reshape(values.shape)
