"""Log-probabilities of given tokens behind given ones, read out of a step by the way."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class DeviceReadouts:
    """On the device, or on its way to the host: what captured graphs write, [readouts] each.

    logprobs   float32, natural logarithms of the asked tokens' probabilities under the raw logits
    likeliest  int64, the likeliest tokens
    """

    logprobs: torch.Tensor
    likeliest: torch.Tensor

    @classmethod
    def empty(cls, count: int, device: torch.device) -> "DeviceReadouts":
        return cls(
            torch.zeros(count, device=device), torch.zeros(count, dtype=torch.int64, device=device)
        )

    def first(self, count: int) -> "DeviceReadouts":
        """The first `count` of them."""
        return DeviceReadouts(self.logprobs[:count], self.likeliest[:count])

    def read(self, logits: torch.Tensor, token_ids: torch.Tensor) -> None:
        """Of `token_ids` [readouts] int32 under `logits` [readouts, vocabulary]. What is no token
        has minus infinity."""
        if logits.device.type == "cuda":
            return self.read_in_one_kernel(logits, token_ids)
        is_token = (token_ids >= 0) & (token_ids < logits.shape[1])
        safe = token_ids.long() * is_token
        logprobs = logits.float().log_softmax(-1).gather(1, safe[:, None])[:, 0]
        self.logprobs.copy_(logprobs.masked_fill(~is_token, float("-inf")))
        self.likeliest.copy_(logits.argmax(-1))

    def read_in_one_kernel(self, logits: torch.Tensor, token_ids: torch.Tensor) -> None:
        """As `read`, in one Triton kernel."""
        from antiphon.kernels.readout import read_out  # Triton is there where CUDA is

        read_out(logits, token_ids, self.logprobs, self.likeliest)

    def start_copy(self) -> "DeviceReadouts":
        """A copy on the host, complete when the device has come so far."""
        if self.logprobs.device.type == "cpu":
            return DeviceReadouts(self.logprobs.clone(), self.likeliest.clone())
        parts = (part.to("cpu", non_blocking=True) for part in (self.logprobs, self.likeliest))
        return DeviceReadouts(*parts)

    def on_host(self) -> tuple[np.ndarray, np.ndarray]:
        """As arrays; of a copy that is complete."""
        return self.logprobs.numpy(), self.likeliest.numpy()
