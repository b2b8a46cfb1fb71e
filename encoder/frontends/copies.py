"""Inputs on their way to an encoder's device."""

import torch


class CopiesAside:
    """On a GPU, inputs are copied on a stream of their own, while the batch before is computed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def host(self, *size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Memory of the host for what will be copied."""
        return torch.empty(*size, dtype=dtype, pin_memory=self._stream is not None)

    def to_device(self, host: torch.Tensor) -> torch.Tensor:
        """What `host` made, on the device; there is no copy where that is the host."""
        if self._stream is None:
            return host
        with torch.cuda.stream(self._stream):
            on_device = host.to(self._device, non_blocking=True)
        compute = torch.cuda.current_stream(self._device)
        compute.wait_stream(self._stream)
        on_device.record_stream(compute)
        return on_device
