"""From logits to tokens, for all rows of a step at once, on the device.

The rules that most requests use (`restrictions.py`, then the likeliest token) read their settings
on the device alone, so that a captured graph holds them and chooses a token for every row. The rows
that ask for more are chosen once more behind it. Which rows those are is known on the host, so
nothing waits for the device.
"""

import numpy as np
import torch

from antiphon.config.decoding_rules import TimestampRules
from antiphon.decoder.sampling.drawing import draw
from antiphon.decoder.sampling.logprobs import DeviceLogprobs, compute_logprobs
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
from antiphon.decoder.sampling.settings import (
    GRAPH_FEATURES,
    GRAPH_SETTINGS,
    SamplingFeatures,
)
from antiphon.decoder.state import Slots
from antiphon.runtime.device import to_device


class Sampler:
    """The rules of sampling in their order.

    A step's rows are sequences: row i continues the one in slot `slots[i]`, which has `lengths[i]`
    tokens so far. `logits` are [rows, vocabulary] float32. A step calls `greedy`, then `finish`.
    Both also append the new tokens to `Slots.tokens`, where the next step reads them.

    `timestamps`: Whisper's rules, for the sequences that ask; None for models without timestamps.
    """

    def __init__(self, slots: Slots, timestamps: TimestampRules | None) -> None:
        self.slots, self.timestamps = slots, timestamps

    def features(self, slots: np.ndarray) -> SamplingFeatures:
        """What the sequences in `slots` [rows] ask for."""
        return SamplingFeatures.of(self.slots.host, slots)

    def greedy(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        lengths: torch.Tensor,
        out: torch.Tensor,
        features: SamplingFeatures = GRAPH_FEATURES,
    ) -> None:
        """The rules that a captured graph holds; `slots` and `lengths` [rows] are on the device.

        Writes tokens into `out` [rows] int64. `features`: those that any row asks for; a kernel
        needs no such hint. Rows that ask for other rules get another token by `finish`.
        """
        if logits.device.type == "cuda":
            return self.greedy_in_one_kernel(logits, slots, lengths, out)
        rows = SampledRows(self.slots, slots, lengths)
        tokens = self._restrict(logits, rows, features).argmax(-1)
        out.copy_(self._append(tokens, rows, features))

    def finish(
        self, logits: torch.Tensor, slots: np.ndarray, lengths: np.ndarray, tokens: torch.Tensor
    ) -> DeviceLogprobs | None:
        """What `greedy`, which chose `tokens` [rows], leaves to do; `slots` and `lengths` [rows]
        are on the host.

        Replaces the tokens of the rows that ask for other rules. Returns log-probabilities of the
        raw logits for the rows that ask for them.
        """
        asking = self.slots.host.rows_asking("resampled", slots)
        if len(asking):
            self._resample(logits, slots, lengths, tokens, asking)
        asking = self.slots.host.rows_asking("logprobs", slots)
        if not len(asking):
            return None
        return compute_logprobs(logits, tokens, SampledRows.of(self.slots, slots, lengths))

    def _resample(
        self,
        logits: torch.Tensor,
        slots: np.ndarray,
        lengths: np.ndarray,
        tokens: torch.Tensor,
        asking: np.ndarray,
    ) -> None:
        """Chooses the tokens of the rows `asking` [n] anew, by all rules."""
        slots, lengths = slots[asking], lengths[asking]
        features, rows = self.features(slots), SampledRows.of(self.slots, slots, lengths)
        index = to_device(asking, rows.device)
        own = logits.index_select(0, index)
        if features.penalties:
            own = penalize(own, rows)
        if features.ngrams:
            own = forbid_repeated_ngrams(own, rows)
        if features.bad_words:
            own = forbid_bad_words(own, rows)
        own = self._restrict(own, rows, features)
        chosen = draw(own, rows) if features.random else own.argmax(-1)
        tokens.index_copy_(0, index, self._append(chosen, rows, features))

    def greedy_in_one_kernel(
        self, logits: torch.Tensor, slots: torch.Tensor, lengths: torch.Tensor, out: torch.Tensor
    ) -> None:
        """As `greedy`, in one Triton kernel instead of some sixty launches."""
        from antiphon.kernels.sampling import greedy  # Triton is there where CUDA is

        state = self.slots
        greedy(
            logits, slots, lengths, out, tokens=state.tokens, masks=state.masks.rows,
            stop_ids=state.stop_ids, timestamps=self.timestamps,
            settings={name: state.on_device[name] for name in GRAPH_SETTINGS},
        )  # fmt: skip

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
        self, tokens: torch.Tensor, rows: SampledRows, features: SamplingFeatures
    ) -> torch.Tensor:
        if features.forced:
            tokens = force_tokens(tokens, rows)
        self.slots.tokens[rows.slots, rows.lengths] = tokens
        return tokens
