"""The rules of sampling by Triton kernels, for GPUs: `Sampler` has the same in torch."""

import numpy as np
import torch

from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.sampling.beams import PackedBeams
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.sampling.settings import GRAPH_SETTINGS, SamplingFeatures
from antiphon.decoder.sampling.vocabulary import VocabularyShard
from antiphon.decoder.state import Slots
from antiphon.kernels import beam_candidates
from antiphon.kernels.sampling import SampledState, greedy, workspace
from antiphon.runtime.device import together_to_device

MOST_CANDIDATES = 64  # of a row: the kernels look for one after the other


class KernelSampler:
    """Parameters are those of `Sampler`; `max_rows`: the most that a step may have."""

    def __init__(
        self,
        slots: Slots,
        timestamps: TimestampRules | None,
        vocabulary: VocabularyShard,
        max_rows: int,
    ) -> None:
        self.slots, self.timestamps, self.vocabulary = slots, timestamps, vocabulary
        self.room = workspace(max_rows, vocabulary.span.count, slots.device)

    def greedy(
        self, logits: torch.Tensor, slots: torch.Tensor, lengths: torch.Tensor, samples: Samples
    ) -> None:
        """As `Sampler.greedy`, by two kernels (three where ranks share the vocabulary)."""
        all_gather = self.vocabulary.group.all_gather if self.vocabulary.is_shared else None
        state = self._state(GRAPH_SETTINGS)
        greedy(logits, slots, lengths, samples.packed, self.room, state, all_gather)

    def knows_beams(self, features: SamplingFeatures, count: int) -> bool:
        """Whether `beam_candidates` knows all that rows of beam searches ask for; more than
        MOST_CANDIDATES torch finds sooner."""
        fits = count <= MOST_CANDIDATES and not self.vocabulary.is_shared
        return fits and features.beams_by_kernels

    def beam_candidates(
        self,
        logits: torch.Tensor,
        slots: np.ndarray,
        lengths: np.ndarray,
        asking: np.ndarray,
        count: int,
        stride: int = 1,
    ) -> PackedBeams:
        """As `Sampler.beam_candidates` of the rows `asking` [n], `count` each, by two
        kernels which need what those of `greedy` have left."""
        own_slots = slots[asking]
        rows, device_slots, device_lengths = together_to_device(
            [asking * stride, own_slots, lengths[asking]], self.slots.device
        )
        state = self._state((*GRAPH_SETTINGS, *beam_candidates.SETTINGS))
        packed = beam_candidates.candidates(
            logits, rows, device_slots, device_lengths, count, self.room, state
        )
        return PackedBeams(asking, packed)

    def _state(self, settings: tuple[str, ...]) -> SampledState:
        words = self.vocabulary.span
        return SampledState(
            tokens=self.slots.tokens,
            masks=self.slots.masks.rows,
            stop_ids=self.slots.stop_ids,
            settings={name: self.slots.on_device[name] for name in settings},
            timestamps=self.timestamps,
            first_id=words.first,
            vocabulary=words.total,
        )
