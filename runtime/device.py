"""The device and dtype of a half, and copies from the host to the device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from antiphon.config.arithmetic import round_up
from antiphon.config.errors import ConfigurationError
from antiphon.config.options import ModelOptions
from antiphon.families.family import Family
from antiphon.runtime.driver import NO_CUDA

ALIGNMENT = 16  # bytes
BFLOAT16_CAPABILITY = (8, 0)
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Target:
    """Where a half runs, and in which dtype its weights and activations are."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def resolve(
        cls, options: ModelOptions, checkpoint: Mapping[str, Any], family: Family
    ) -> "Target":
        """Decides what "auto" means here.

        device: a GPU if torch sees one. dtype: float32 on a CPU; on a GPU the
        checkpoint's dtype, bfloat16 for a float32 checkpoint. If the GPU lacks that
        dtype, or if it cannot hold the family's activations: bfloat16, else float16,
        else float32.

        Raises ConfigurationError for an explicit device or dtype that is impossible here.
        """
        family.check_dtype(options.dtype)
        available = torch.cuda.is_available()
        if options.device == "cuda" and not available:
            raise ConfigurationError(NO_CUDA)
        device = torch.device("cuda" if options.device != "cpu" and available else "cpu")
        if options.dtype != "auto":
            return cls(device, getattr(torch, options.dtype))
        stored = checkpoint.get("dtype") or checkpoint.get("torch_dtype")
        if device.type == "cpu":
            return cls(device, torch.float32)
        usable = ["float16", "bfloat16"] if stored == "float16" else ["bfloat16", "float16"]
        if torch.cuda.get_device_capability(device) < BFLOAT16_CAPABILITY:
            usable.remove("bfloat16")
        chosen = next((name for name in usable if name not in family.too_narrow), "float32")
        return cls(device, getattr(torch, chosen))

    def build(self, make: Callable[[], M]) -> M:
        """The module that `make` builds, on this device and in this dtype. Its weights
        are uninitialized: the loader fills every one of them."""
        previous = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with self.device, SkipInit():
                return make().eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(previous)


def probe(device: torch.device) -> None:
    """Raises the device's error if it cannot go on. Some errors end only the work that
    caused them (out of memory, a wrong shape). Others (an illegal address) end all
    later work of this process on the device; whatever waits for the device next raises
    them again."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy of `array` on `device`, queued on its current stream. On a GPU it goes
    through pinned memory, so that the host need not wait.

    The pinned memory is freed here, perhaps before the copy has begun. That is safe:
    torch's allocator of pinned memory records each such copy, and reuses the block only
    when it is done. `together_to_device`, an encoder's windows and a step's tokens on
    their way back rely on this too. Pinned memory that is kept and filled again needs
    an event of its own, as in `InputBuffer`.
    """
    host = torch.from_numpy(np.ascontiguousarray(array))
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)


def together_to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """As `to_device` for several arrays, in one copy: starting a copy costs more than
    moving a few bytes. The results are views of it."""
    ends = list(accumulate(round_up(array.nbytes, ALIGNMENT) for array in arrays))
    host = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    offsets = [0, *ends[:-1]]
    for start, array in zip(offsets, arrays, strict=True):
        as_bytes = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        host.numpy()[start : start + array.nbytes] = as_bytes
    copied = host.to(device, non_blocking=True)
    return [
        copied[start : start + array.nbytes].view(_torch_dtype(array.dtype)).view(array.shape)
        for start, array in zip(offsets, arrays, strict=True)
    ]


@cache
def _torch_dtype(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


class SkipInit(torch.overrides.TorchFunctionMode):
    """Inside, `torch.nn.init` leaves tensors as they are. Random values that the loader
    overwrites would cost seconds in big models."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def recorded_event(device: torch.device) -> torch.cuda.Event | None:
    """An event behind all that is queued on the current stream; None on a CPU."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record()
    return event
