"""The rules of sampling by Numba kernels, for CPUs: `Sampler` has the same in torch."""

import numpy as np
import torch

from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.sampling.beams import DeviceBeams
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.sampling.settings import SamplingFeatures
from antiphon.decoder.state import Slots
from antiphon.kernels.cpu_sampling import (
    NONE,
    RowRules,
    TimeIds,
    likeliest_candidates,
    likeliest_tokens,
)
from antiphon.kernels.numba_cache import make_ready

_OF_SLOTS = ("tokens", "masks", "stop_ids")


class CpuSampler:
    """Parameters are those of `Sampler`, for the whole vocabulary. Kernels are ready once it is."""

    def __init__(self, slots: Slots, timestamps: TimestampRules | None) -> None:
        self.slots, self._ids = slots, TimeIds()
        if timestamps is not None:
            words = slots.vocab_size  # which ids of a checkpoint's settings may be beyond
            no_times = timestamps.no_timestamps_id
            self._ids = TimeIds(
                min(timestamps.first_id, words),
                min(timestamps.last_id + 1, words),
                no_times if 0 <= no_times < words else NONE,
                min(timestamps.end_id, words),
            )
        settings = [name for name in RowRules._fields if name not in _OF_SLOTS]
        self._rules = RowRules(
            slots.tokens.numpy(),
            slots.masks.rows.numpy(),
            slots.stop_ids.numpy(),
            *(slots.on_device[name].numpy() for name in settings),
        )
        row, none = np.zeros((0, slots.vocab_size), np.float32), np.zeros(0, np.int64)
        step = none, none, self._rules, self._ids
        make_ready(likeliest_tokens, row, *step, none, np.zeros((0, 2), np.float32), none)
        best = np.zeros((0, 1), np.float32)
        make_ready(likeliest_candidates, row, none, *step, best.astype(np.int64), best, best)

    def greedy(
        self, logits: torch.Tensor, slots: torch.Tensor, lengths: torch.Tensor, samples: Samples
    ) -> None:
        """As `Sampler.greedy`."""
        rows = len(logits)
        tokens, ranks = np.empty((2, rows), np.int64)
        logprobs = np.empty((rows, 2), np.float32)
        likeliest_tokens(
            logits.numpy(), _ids(slots), _ids(lengths), self._rules, self._ids,
            tokens, logprobs, ranks,
        )  # fmt: skip
        samples.set(tokens, logprobs, ranks)

    def knows_beams(self, features: SamplingFeatures, count: int) -> bool:
        """Whether `beam_candidates` knows all that rows of beam searches ask for."""
        return features.beams_by_kernels

    def beam_candidates(
        self,
        logits: torch.Tensor,
        slots: np.ndarray,
        lengths: np.ndarray,
        asking: np.ndarray,
        count: int,
        stride: int = 1,
    ) -> DeviceBeams:
        """As `Sampler.beam_candidates` of the rows `asking` [n], `count` each."""
        own, own_lengths = slots[asking].astype(np.int64), lengths[asking].astype(np.int64)
        tokens = np.empty((len(own), count), np.int64)
        scores, logprobs = np.empty((2, len(own), count), np.float32)
        likeliest_candidates(
            logits.numpy(), asking * stride, own, own_lengths, self._rules, self._ids, tokens,
            scores, logprobs,
        )  # fmt: skip
        ids, of_rules, raw = map(torch.from_numpy, (tokens, scores, logprobs))
        return DeviceBeams(asking, ids, of_rules, raw, ids[:, :0])


def _ids(numbers: torch.Tensor) -> np.ndarray:
    return numbers.numpy().astype(np.int64)
