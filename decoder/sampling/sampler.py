"""From logits to tokens, for all rows of a step at once, on the device.

The rules that most requests use (`restrictions.py`, then the likeliest token) read
settings on the device alone, so a captured graph chooses a token for every row. Rows
that ask for more get another token behind it. The host knows which, so nothing waits.

Where ranks share the vocabulary, the first choice exchanges a few numbers a row
(`partial_choice.py`; on GPUs `kernels/sampling.py`). Of rows that ask for more, every
rank gathers the whole logits. All ranks make the same calls and get the same tokens.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.sampling.beams import DeviceBeams, PackedBeams, likeliest_candidates
from antiphon.decoder.sampling.drawing import draw, likeliest
from antiphon.decoder.sampling.logprobs import DeviceLogprobs, top_logprobs
from antiphon.decoder.sampling.partial_choice import choose, describe_own_words
from antiphon.decoder.sampling.penalties import (
    forbid_bad_words,
    forbid_repeated_ngrams,
    penalize,
)
from antiphon.decoder.sampling.restrictions import (
    apply_timestamp_rules,
    bar_by_timestamps,
    bar_stop_tokens,
    force_tokens,
    masks_of,
)
from antiphon.decoder.sampling.rows import SampledRows
from antiphon.decoder.sampling.samples import Samples, ranks_of
from antiphon.decoder.sampling.settings import GRAPH_FEATURES, SamplingFeatures
from antiphon.decoder.sampling.vocabulary import VocabularyShard
from antiphon.decoder.state import Slots
from antiphon.layers.shard import Shard, Span
from antiphon.runtime.device import to_device, together_to_device

if TYPE_CHECKING:
    from antiphon.decoder.sampling.cpu_sampler import CpuSampler
    from antiphon.decoder.sampling.kernel_sampler import KernelSampler


class Sampler:
    """The rules of sampling in their order.

    Row i of a step continues the sequence in slot `slots[i]` behind its first
    `lengths[i]` tokens; one with drafts has several rows. `logits` are [rows, own
    words] float32. A step calls `greedy`, then `finish`. Both also write the new tokens
    to `Slots.tokens`, where the next step reads them.

    `timestamps`: Whisper's rules, for the sequences that ask; None for models without
    timestamps. `shard`: of the ranks that share the vocabulary, whose `Slots` have
    masks of the same words; None: there is this one alone.
    """

    def __init__(
        self,
        slots: Slots,
        timestamps: TimestampRules | None,
        shard: Shard | None = None,
        max_rows: int = 0,
        kernels: bool = True,
    ) -> None:
        """`max_rows`: of a step, where it may be more than `slots` has sequences.
        `kernels`: False for torch alone, which is the reference."""
        self.slots, self.timestamps = slots, timestamps
        self.vocabulary = VocabularyShard(slots.vocab_size, shard)
        if self.vocabulary.span != slots.vocabulary:
            raise ValueError(
                f"masks of the words {slots.vocabulary} for logits of {self.vocabulary.span}"
            )
        self._kernels = self._kernel_sampler(max(slots.scratch, max_rows)) if kernels else None

    def _kernel_sampler(self, max_rows: int) -> "KernelSampler | CpuSampler | None":
        if self.slots.device.type == "cuda":
            from antiphon.decoder.sampling.kernel_sampler import KernelSampler  # Triton is there

            return KernelSampler(self.slots, self.timestamps, self.vocabulary, max_rows)
        if self.vocabulary.is_shared:
            return None
        from antiphon.decoder.sampling.cpu_sampler import CpuSampler  # Numba is there

        return CpuSampler(self.slots, self.timestamps)

    def features(self, slots: np.ndarray) -> SamplingFeatures:
        """What the sequences in `slots` [rows] ask for."""
        return SamplingFeatures.of(self.slots.host, slots)

    def greedy(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        samples: Samples,
        features: SamplingFeatures = GRAPH_FEATURES,
    ) -> None:
        """The rules of captured graphs; `slots` and `lengths` [rows] are on the device.

        Writes into `samples` [rows], but on a CPU nothing where all rows are of beam
        searches. `features`: what any row asks for; kernels need no hint. Rows that ask
        for other rules get another token by `finish`.
        """
        if self.slots.device.type == "cpu" and features.beams and self._are_of_beams(slots):
            return None  # no token of them counts: see `beam_candidates`
        if self._kernels is not None:
            return self._kernels.greedy(logits, slots, lengths, samples)
        rows = SampledRows(self.slots, self.vocabulary.span, slots, lengths)
        if self.vocabulary.is_shared:
            return self._greedy_of_all_ranks(logits, rows, samples, features)
        restricted = self._restrict(logits, rows, features, _masks(rows, features))
        self._append(logits, restricted, likeliest(restricted), rows, features, samples)

    def _are_of_beams(self, slots: torch.Tensor) -> bool:
        return bool((self.slots.on_device["beam_candidates"][slots] > 0).all())

    def _greedy_of_all_ranks(
        self, logits: torch.Tensor, rows: SampledRows, samples: Samples, features: SamplingFeatures
    ) -> None:
        timestamps = self.timestamps if features.timestamps else None
        ruled = _mask_and_bar(logits, rows, features, _masks(rows, features))
        if timestamps is not None:
            ruled = bar_by_timestamps(ruled, rows, timestamps)
        own = describe_own_words(logits, ruled, rows, timestamps)
        choice = choose(self.vocabulary.group.all_gather(own), rows)
        self.slots.tokens[rows.slots, rows.lengths] = choice.tokens
        samples.put(choice.tokens, choice.logprobs, choice.restricted_logprobs, choice.is_forced)

    def finish(
        self, logits: torch.Tensor, slots: np.ndarray, lengths: np.ndarray, samples: Samples
    ) -> DeviceLogprobs | None:
        """What `greedy` leaves to do; `slots` and `lengths` [rows] are on the host.

        Chooses anew for the rows that ask for other rules, in `samples` [rows]. Returns
        the likeliest tokens, by the raw logits, for the rows that ask for them.
        """
        resampled, listed, ranked = (
            self.slots.host.rows_asking(group, slots)
            for group in ("resampled", "top_logprobs", "ranked")
        )
        if not self.vocabulary.is_shared:
            ranked = ranked[:0]  # known by now
        groups = [rows for rows in (resampled, listed, ranked) if len(rows)]
        if not groups:
            return None
        whole = self._gathered(logits, np.unique(np.concatenate(groups)))
        if len(resampled):
            own, index, rows = self._of_rows(whole, slots, lengths, resampled)
            before = Samples(samples.packed.index_select(0, index))
            samples.replace(index, self._resampled(own, rows, before.log_sums(own)))
        if len(ranked):
            own, index, _ = self._of_rows(whole, slots, lengths, ranked)
            ranks = ranks_of(own, samples.tokens.index_select(0, index))
            samples.ranks.index_copy_(0, index, ranks)
        if not len(listed):
            return None
        own, _, rows = self._of_rows(whole, slots, lengths, listed)
        return top_logprobs(own, listed, rows)

    def beam_candidates(
        self, logits: torch.Tensor, slots: np.ndarray, lengths: np.ndarray, stride: int = 1
    ) -> DeviceBeams | PackedBeams | None:
        """The tokens with which rows of beam searches may go on. The host, which has
        `slots` and `lengths` [rows], replaces `greedy`'s tokens before the next
        step. `stride`: row i has row i * `stride` of the logits, as `greedy` got them."""
        asking = self.slots.host.rows_asking("beams", slots)
        if not len(asking):
            return None
        own_slots = slots[asking]
        count = int(self.slots.host["beam_candidates"][own_slots].max())
        if self._kernels is not None and self._kernels.knows_beams(self.features(own_slots), count):
            return self._kernels.beam_candidates(logits, slots, lengths, asking, count, stride)
        whole = self._gathered(logits[::stride], asking)
        own, _, rows = self._of_rows(whole, slots, lengths, asking)
        return likeliest_candidates(asking, own, rows, lambda scores: self._ruled(scores, rows))

    def _gathered(self, logits: torch.Tensor, rows: np.ndarray) -> "_WholeRows":
        """Whole logits of a step's `rows` [n]; of all rows if no ranks share them."""
        if not self.vocabulary.is_shared:
            return _WholeRows(logits, np.arange(len(logits)))
        own = logits.index_select(0, to_device(rows, self.slots.device))
        return _WholeRows(self.vocabulary.gather(own), rows)

    def _of_rows(
        self, whole: "_WholeRows", slots: np.ndarray, lengths: np.ndarray, chosen: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor, SampledRows]:
        """Of rows `chosen` [n]: logits [n, vocabulary], and `chosen` on the device."""
        own_slots, own_lengths = slots[chosen], lengths[chosen]
        index, place, device_slots, device_lengths = together_to_device(
            [chosen, np.searchsorted(whole.rows, chosen), own_slots, own_lengths],
            self.slots.device,
        )
        words = Span.whole(self.slots.vocab_size)
        rows = SampledRows(self.slots, words, device_slots, device_lengths, own_slots, own_lengths)
        is_every = len(chosen) == len(whole.rows)
        own = whole.logits if is_every else whole.logits.index_select(0, place)
        return own, index, rows

    def _resampled(
        self, logits: torch.Tensor, rows: SampledRows, log_sums: torch.Tensor
    ) -> Samples:
        """Applies all rules to `rows`, each of which asks for some that graphs lack,
        with `logits` [rows, vocabulary] and their `log_sums` [rows]."""
        assert rows.slots_on_host is not None
        features, ruled = self.features(rows.slots_on_host), self._ruled(logits, rows)
        tokens = draw(ruled, rows) if features.random else likeliest(ruled)
        if features.random and self.vocabulary.is_shared:
            # On a GPU, running sums of equal numbers may differ in their last bits.
            self.vocabulary.group.broadcast(tokens, 0)
        samples = Samples.empty(len(logits), rows.device)
        self._append(logits, ruled, tokens, rows, features, samples, log_sums)
        return samples

    def _ruled(self, logits: torch.Tensor, rows: SampledRows) -> torch.Tensor:
        """`logits` [rows, vocabulary] under all rules that any row asks for."""
        assert rows.slots_on_host is not None
        features = self.features(rows.slots_on_host)
        ruled = logits
        if features.penalties:
            ruled = penalize(ruled, rows)
        if features.ngrams:
            ruled = forbid_repeated_ngrams(ruled, rows)
        if features.bad_words:
            ruled = forbid_bad_words(ruled, rows)
        masks = _masks(rows, features)
        return self._restrict(
            ruled, rows, features, None if masks is None else self.vocabulary.gather(masks)
        )

    def _restrict(
        self,
        logits: torch.Tensor,
        rows: SampledRows,
        features: SamplingFeatures,
        masks: torch.Tensor | None,
    ) -> torch.Tensor:
        """`logits` and `masks` [rows, vocabulary] -> restricted logits."""
        logits = _mask_and_bar(logits, rows, features, masks)
        if features.timestamps and self.timestamps is not None:
            logits = apply_timestamp_rules(logits, rows, self.timestamps)
        return logits

    def _append(
        self,
        raw: torch.Tensor,
        restricted: torch.Tensor,
        tokens: torch.Tensor,
        rows: SampledRows,
        features: SamplingFeatures,
        samples: Samples,
        log_sums: torch.Tensor | None = None,
    ) -> None:
        """Writes `tokens` [rows], or those that the model prescribes, behind their
        sequences and into `samples`."""
        is_forced = None
        if features.forced:
            tokens, is_forced = force_tokens(tokens, rows)
        self.slots.tokens[rows.slots, rows.lengths] = tokens
        is_ranked = rows.setting("ranked") > 0 if features.ranks else None
        samples.write(raw, restricted, tokens, is_forced, is_ranked, log_sums)


@dataclass(frozen=True)
class _WholeRows:
    """Logits [n, vocabulary] of a step's `rows` [n], which ascend."""

    logits: torch.Tensor
    rows: np.ndarray


def _masks(rows: SampledRows, features: SamplingFeatures) -> torch.Tensor | None:
    return masks_of(rows) if features.masks else None


def _mask_and_bar(
    logits: torch.Tensor,
    rows: SampledRows,
    features: SamplingFeatures,
    masks: torch.Tensor | None,
) -> torch.Tensor:
    """What concerns each word by itself; `masks` as wide as `logits`."""
    if masks is not None:
        logits = logits + masks
    return bar_stop_tokens(logits, rows) if features.min_tokens else logits
