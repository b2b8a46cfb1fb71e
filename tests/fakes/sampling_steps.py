"""One step of sampling as a runner does it, and hand-made sequences for it."""

import numpy as np
import torch

from antiphon.decoder.sampling.logprobs import DeviceLogprobs
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.sampling.samples import Samples


def sample(
    sampler: Sampler, logits: torch.Tensor, slots: np.ndarray, lengths: np.ndarray
) -> tuple[torch.Tensor, DeviceLogprobs | None]:
    """Tokens [rows] of the sequences in `slots`, which have `lengths` tokens, from `logits`."""
    samples, top = all_of(sampler, logits, slots, lengths)
    return samples.tokens, top


def all_of(
    sampler: Sampler, logits: torch.Tensor, slots: np.ndarray, lengths: np.ndarray
) -> tuple[Samples, DeviceLogprobs | None]:
    """As `sample`, with the tokens' log-probabilities."""
    samples = Samples.empty(len(slots), torch.device("cpu"))
    on_device = (torch.from_numpy(np.asarray(array)) for array in (slots, lengths))
    sampler.greedy(logits, *on_device, samples, sampler.features(slots))
    return samples, sampler.finish(logits, slots, lengths, samples)
