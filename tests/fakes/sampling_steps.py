"""One step of sampling as a runner does it, and hand-made sequences for it."""

from typing import Any

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


def greedy_by_kernels(self: Sampler, *step: Any) -> None:
    """In place of `Sampler.greedy`: as on a GPU, here in Triton's interpreter."""
    from antiphon.kernels.sampling import workspace

    logits, slots, lengths, samples = step[:4]
    room = workspace(len(logits), logits.shape[1], logits.device)
    self.greedy_by_kernels(logits, slots.int(), lengths.int(), samples, room)
