"""From logits to tokens, for all rows of a step at once, on the device.

The rules that most requests use (`restrictions.py`, then the likeliest token) read their settings
on the device alone, so that a captured graph holds them and chooses a token for every row. The rows
that ask for more are chosen once more behind it. Which rows those are is known on the host, so
nothing waits for the device.
"""

import numpy as np
import torch

from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.sampling.drawing import draw, likeliest
from antiphon.decoder.sampling.logprobs import DeviceLogprobs, top_logprobs
from antiphon.decoder.sampling.penalties import (
    forbid_bad_words,
    forbid_repeated_ngrams,
    penalize,
)
from antiphon.decoder.sampling.restrictions import (
    apply_masks,
    apply_timestamp_rules,
    bar_stop_tokens,
    force_tokens,
)
from antiphon.decoder.sampling.rows import SampledRows
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.sampling.settings import (
    GRAPH_FEATURES,
    GRAPH_SETTINGS,
    SamplingFeatures,
)
from antiphon.decoder.state import Slots
from antiphon.runtime.device import together_to_device


class Sampler:
    """The rules of sampling in their order.

    A step's rows are sequences: row i continues the one in slot `slots[i]`, which has `lengths[i]`
    tokens so far. `logits` are [rows, vocabulary] float32. A step calls `greedy`, then `finish`.
    Both also append the new tokens to `Slots.tokens`, where the next step reads them.

    `timestamps`: Whisper's rules, for the sequences that ask; None for models without timestamps.
    """

    def __init__(self, slots: Slots, timestamps: TimestampRules | None) -> None:
        self.slots, self.timestamps = slots, timestamps
        self._kernel_room: tuple[torch.Tensor, torch.Tensor] | None = None
        if slots.device.type == "cuda":
            from antiphon.kernels.sampling import workspace  # Triton is there where CUDA is

            self._kernel_room = workspace(slots.scratch, slots.vocab_size, slots.device)

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
        """The rules that a captured graph holds; `slots` and `lengths` [rows] are on the device.

        Writes into `samples` [rows]. `features`: those that any row asks for; the kernels need no
        such hint. Rows that ask for other rules get another token by `finish`.
        """
        if self._kernel_room is not None:
            return self.greedy_by_kernels(logits, slots, lengths, samples, self._kernel_room)
        rows = SampledRows(self.slots, slots, lengths)
        restricted = self._restrict(logits, rows, features)
        self._append(logits, restricted, likeliest(restricted), rows, features, samples)

    def greedy_by_kernels(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        samples: Samples,
        room: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        """As `greedy`, by two Triton kernels instead of some sixty launches. `room`: of
        `kernels.sampling.workspace`, for as many rows at least."""
        from antiphon.kernels.sampling import greedy  # Triton is there where CUDA is

        state = self.slots
        greedy(
            logits, slots, lengths, samples.packed, room, tokens=state.tokens,
            masks=state.masks.rows, stop_ids=state.stop_ids, timestamps=self.timestamps,
            settings={name: state.on_device[name] for name in GRAPH_SETTINGS},
        )  # fmt: skip

    def finish(
        self, logits: torch.Tensor, slots: np.ndarray, lengths: np.ndarray, samples: Samples
    ) -> DeviceLogprobs | None:
        """What `greedy` leaves to do; `slots` and `lengths` [rows] are on the host.

        Chooses anew for the rows that ask for other rules, in `samples` [rows]. Returns the
        likeliest tokens, by the raw logits, for the rows that ask for them.
        """
        asking = self.slots.host.rows_asking("resampled", slots)
        if len(asking):
            own, index, rows = self._of_rows(logits, slots, lengths, asking)
            before = Samples(samples.packed.index_select(0, index))
            samples.replace(index, self._resampled(own, rows, before.log_sums(own)))
        asking = self.slots.host.rows_asking("top_logprobs", slots)
        if not len(asking):
            return None
        own, _, rows = self._of_rows(logits, slots, lengths, asking)
        return top_logprobs(own, asking, rows)

    def _of_rows(
        self, logits: torch.Tensor, slots: np.ndarray, lengths: np.ndarray, chosen: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor, SampledRows]:
        """Of the rows `chosen` [n]: their logits [n, vocabulary], and `chosen` on the device."""
        own_slots, own_lengths = slots[chosen], lengths[chosen]
        index, slots_there, lengths_there = together_to_device(
            [chosen, own_slots, own_lengths], self.slots.device
        )
        rows = SampledRows(self.slots, slots_there, lengths_there, own_slots, own_lengths)
        return logits.index_select(0, index), index, rows

    def _resampled(
        self, logits: torch.Tensor, rows: SampledRows, log_sums: torch.Tensor
    ) -> Samples:
        """All rules, for rows of which each asks for some that graphs lack. `log_sums` [rows]: of
        the raw `logits`."""
        assert rows.slots_on_host is not None
        features = self.features(rows.slots_on_host)
        ruled = logits
        if features.penalties:
            ruled = penalize(ruled, rows)
        if features.ngrams:
            ruled = forbid_repeated_ngrams(ruled, rows)
        if features.bad_words:
            ruled = forbid_bad_words(ruled, rows)
        ruled = self._restrict(ruled, rows, features)
        tokens = draw(ruled, rows) if features.random else likeliest(ruled)
        samples = Samples.empty(len(logits), rows.device)
        self._append(logits, ruled, tokens, rows, features, samples, log_sums)
        return samples

    def _restrict(
        self, logits: torch.Tensor, rows: SampledRows, features: SamplingFeatures
    ) -> torch.Tensor:
        if features.masks:
            logits = apply_masks(logits, rows)
        if features.min_tokens:
            logits = bar_stop_tokens(logits, rows)
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
        """Writes `tokens` [rows], or those that the model prescribes, behind their sequences and
        into `samples`."""
        is_forced = None
        if features.forced:
            tokens, is_forced = force_tokens(tokens, rows)
        self.slots.tokens[rows.slots, rows.lengths] = tokens
        is_ranked = rows.setting("ranked") > 0 if features.ranks else None
        samples.write(raw, restricted, tokens, is_forced, is_ranked, log_sums)
