"""One step of sampling as a runner does it, and hand-made sequences for it."""

import numpy as np
import torch

from antiphon.decoder.sampling.logprobs import DeviceLogprobs
from antiphon.decoder.sampling.sampler import Sampler


def sample(
    sampler: Sampler, logits: torch.Tensor, slots: np.ndarray, lengths: np.ndarray
) -> tuple[torch.Tensor, DeviceLogprobs | None]:
    """Tokens [rows] of the sequences in `slots`, which have `lengths` tokens, from `logits`."""
    tokens = torch.zeros(len(slots), dtype=torch.int64)
    on_device = (torch.from_numpy(np.asarray(array)) for array in (slots, lengths))
    sampler.greedy(logits, *on_device, tokens, sampler.features(slots))
    return tokens, sampler.finish(logits, slots, lengths, tokens)
