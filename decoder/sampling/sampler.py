"""From logits to tokens, for all rows of a step at once, on the device.

The rules that most requests use (`restrictions.py`, then the likeliest token) read their settings
on the device alone, so that a captured graph holds them. The others run behind it, for the rows
that ask; which do is known on the host, so nothing waits for the device.
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


class Sampler:
    """The rules of sampling in their order.

    A step's rows are sequences: row i continues the one in slot `slots[i]`, which has `lengths[i]`
    tokens so far. `logits` are [rows, vocabulary] float32. Every way to sample also appends the new
    tokens to `Slots.tokens`, where the next step reads them.

    `timestamps`: Whisper's rules, for the sequences that ask; None for models without timestamps.
    """

    def __init__(self, slots: Slots, timestamps: TimestampRules | None) -> None:
        self.slots, self.timestamps = slots, timestamps

    def features(self, slots: np.ndarray) -> SamplingFeatures:
        """What the sequences in `slots` [rows] ask for."""
        return SamplingFeatures.of(self.slots.host, slots)

    def __call__(
        self, logits: torch.Tensor, slots: np.ndarray, lengths: np.ndarray
    ) -> tuple[torch.Tensor, DeviceLogprobs | None]:
        """All rules, outside graphs. `slots` and `lengths` [rows] are on the host.

        Returns tokens [rows] int64, and log-probabilities of the raw logits for the rows that ask.
        """
        features, rows = self.features(slots), SampledRows.of(self.slots, slots, lengths)
        raw = logits
        if features.penalties:
            logits = penalize(logits, rows)
        if features.ngrams:
            logits = forbid_repeated_ngrams(logits, rows)
        if features.bad_words:
            logits = forbid_bad_words(logits, rows)
        logits = self._restrict(logits, rows, features)
        tokens = draw(logits, rows) if features.random else logits.argmax(-1)
        tokens = self._append(tokens, rows, features)
        return tokens, compute_logprobs(raw, tokens, rows) if features.logprobs else None

    def logprobs(
        self, logits: torch.Tensor, tokens: torch.Tensor, slots: np.ndarray, lengths: np.ndarray
    ) -> DeviceLogprobs:
        """Of `tokens` [rows] that `greedy` chose from raw `logits`, for the rows that ask, of which
        there is one at least."""
        return compute_logprobs(logits, tokens, SampledRows.of(self.slots, slots, lengths))

    def greedy(
        self, logits: torch.Tensor, slots: torch.Tensor, lengths: torch.Tensor, out: torch.Tensor
    ) -> None:
        """The rules that a captured graph holds; `slots` and `lengths` [rows] are on the device.

        Writes tokens into `out` [rows] int64. Wrong for rows whose features do not fit a graph.
        """
        if logits.device.type == "cuda":
            return self.greedy_in_one_kernel(logits, slots, lengths, out)
        rows = SampledRows(self.slots, slots, lengths)
        tokens = self._restrict(logits, rows, GRAPH_FEATURES).argmax(-1)
        out.copy_(self._append(tokens, rows, GRAPH_FEATURES))

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
