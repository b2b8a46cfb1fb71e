"""Where a half lives and in what precision."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from antiphon.config.arithmetic import round_up
from antiphon.config.errors import ConfigurationError
from antiphon.config.options import ModelOptions
from antiphon.families.family import Family

ALIGNMENT = 16  # bytes
BFLOAT16_CAPABILITY = (8, 0)
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Target:
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def resolve(
        cls, options: ModelOptions, checkpoint: Mapping[str, Any], family: Family
    ) -> "Target":
        """'auto': a GPU where there is one; float32 on a CPU, the checkpoint's dtype on a GPU (bfloat16 for
        float32 ones). Where the GPU lacks that dtype, or it can't hold the family's activations: bfloat16,
        else float16, else float32. Raises ConfigurationError for a dtype that was asked for and can't.
        """
        family.check_dtype(options.dtype)
        available = torch.cuda.is_available()
        if options.device == "cuda" and not available:
            raise ConfigurationError(
                "device='cuda' but torch sees no CUDA device here: use device='cpu' or install a CUDA build of torch"
            )
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
        """A module with uninitialised weights here, in this precision: the loader fills every one of them."""
        previous = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with self.device, SkipInit():
                return make().eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(previous)


def probe(device: torch.device) -> None:
    """Raises what the device raises when it can't go on. Some errors end the work that caused them
    (out of memory, a wrong shape); others (an illegal address) end everything that this process will
    ever ask of it, and are raised again by whoever waits for it next."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy on `device`, behind whatever its stream does now; on a GPU through pinned memory, so that the host need not wait.

    The pinned memory is dropped here, before the copy may have begun: torch's allocator of pinned
    memory notes each such copy and gives the block to nobody else until it is done. So does whoever
    else drops what is copied (`together_to_device`, an encoder's windows, a step's tokens on their
    way back). What is kept and filled again needs an event of its own, as `InputBuffer` has.
    """
    host = torch.from_numpy(np.ascontiguousarray(array))
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)


def together_to_device(arrays: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """As `to_device`, all in one copy: each costs more to start than these few bytes to move."""
    ends = np.cumsum([round_up(each.nbytes, ALIGNMENT) for each in arrays]).tolist()
    host = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    starts = [0, *ends[:-1]]
    for start, each in zip(starts, arrays, strict=True):
        host.numpy()[start : start + each.nbytes] = (
            np.ascontiguousarray(each).view(np.uint8).reshape(-1)
        )
    there = host.to(device, non_blocking=True)
    dtypes = [torch.from_numpy(np.empty(0, each.dtype)).dtype for each in arrays]
    return [
        there[start : start + each.nbytes].view(dtype).view(each.shape)
        for start, each, dtype in zip(starts, arrays, dtypes, strict=True)
    ]


class SkipInit(torch.overrides.TorchFunctionMode):
    """Inside, `torch.nn.init` leaves tensors as they are: random values that are overwritten cost seconds in big models."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
