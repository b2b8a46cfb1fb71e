"""One step of sampling as a runner does it, and hand-made sequences for it."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from antiphon.decoder.sampling.logprobs import DeviceLogprobs
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.sampling.samples import Samples

if TYPE_CHECKING:
    from antiphon.decoder.sampling.kernel_sampler import KernelSampler


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
    own_slots, own_lengths = (torch.from_numpy(np.asarray(array)) for array in (slots, lengths))
    sampler.greedy(logits, own_slots, own_lengths, samples, sampler.features(slots))
    return samples, sampler.finish(logits, slots, lengths, samples)


def greedy_by_kernels(self: Sampler, *step: Any) -> None:
    """In place of `Sampler.greedy`: as on a GPU, here in Triton's interpreter."""
    logits, slots, lengths, samples = step[:4]
    kernel_sampler(self, len(logits)).greedy(logits, slots.int(), lengths.int(), samples)


def kernel_sampler(sampler: Sampler, max_rows: int) -> "KernelSampler":
    """With all that `sampler` knows, whatever its device is."""
    from antiphon.decoder.sampling.kernel_sampler import KernelSampler

    return KernelSampler(sampler.slots, sampler.timestamps, sampler.vocabulary, max_rows)
