"""Log-probabilities of given tokens behind given ones, which a step computes anyway."""

from dataclasses import dataclass

import numpy as np
import torch

from antiphon.decoder.sampling.vocabulary import VocabularyShard


@dataclass(frozen=True)
class DeviceReadouts:
    """What captured graphs write, [readouts] each; on the device or going to the host.

    logprobs   float32, natural log-probabilities of the tokens under the raw logits
    likeliest  int64, the likeliest tokens
    """

    logprobs: torch.Tensor
    likeliest: torch.Tensor

    @classmethod
    def empty(cls, count: int, device: torch.device) -> "DeviceReadouts":
        return cls(
            torch.zeros(count, device=device), torch.zeros(count, dtype=torch.int64, device=device)
        )

    def first(self, count: int) -> "DeviceReadouts":
        """The first `count` of them."""
        return DeviceReadouts(self.logprobs[:count], self.likeliest[:count])

    def read(
        self,
        logits: torch.Tensor,
        token_ids: torch.Tensor,
        vocabulary: VocabularyShard | None = None,
    ) -> None:
        """Of `token_ids` [readouts] int32 under `logits` [readouts, own words]. What is
        no token has minus infinity.

        `vocabulary`: the own words, where ranks share them; None: all.
        """
        if logits.device.type == "cuda":
            return self.read_by_kernels(logits, token_ids, vocabulary)
        if vocabulary is not None and vocabulary.is_shared:
            return self._read_with_others(logits.float(), token_ids, vocabulary)
        is_token = (token_ids >= 0) & (token_ids < logits.shape[1])
        safe = token_ids.long() * is_token
        logprobs = logits.float().log_softmax(-1).gather(1, safe[:, None])[:, 0]
        self.logprobs.copy_(logprobs.masked_fill(~is_token, float("-inf")))
        self.likeliest.copy_(logits.argmax(-1))

    def _read_with_others(
        self, logits: torch.Tensor, token_ids: torch.Tensor, vocabulary: VocabularyShard
    ) -> None:
        """Ranks exchange READOUT_NUMBERS of each row (see `kernels/formats.py`)."""
        columns = vocabulary.span.places(token_ids.long())[:, None]
        own = logits.gather(1, columns)[:, 0]
        top, column = logits.max(-1)
        numbers = [
            logits.logsumexp(-1),
            own.masked_fill(~vocabulary.span.holds(token_ids), float("-inf")),
            top,
            (column + vocabulary.span.first).float(),  # exact below 2**24
        ]
        gathered = vocabulary.group.all_gather(torch.stack(numbers, dim=-1))
        log_sums, chosen, tops, ids = gathered.unbind(-1)
        self.logprobs.copy_(chosen.amax(0) - log_sums.logsumexp(0))
        self.likeliest.copy_(ids.gather(0, tops.argmax(0)[None])[0])

    def read_by_kernels(
        self,
        logits: torch.Tensor,
        token_ids: torch.Tensor,
        vocabulary: VocabularyShard | None = None,
    ) -> None:
        """As `read`, in one Triton kernel; in two where ranks share the vocabulary."""
        from antiphon.kernels.readout import read_out  # Triton is there where CUDA is

        results = self.logprobs, self.likeliest
        if vocabulary is None or not vocabulary.is_shared:
            return read_out(logits, token_ids, *results)
        words, all_gather = vocabulary.span, vocabulary.group.all_gather
        read_out(logits, token_ids, *results, words.first, words.total, all_gather)

    def start_copy(self) -> "DeviceReadouts":
        """A copy on the host, complete when the device has come so far."""
        if self.logprobs.device.type == "cpu":
            return DeviceReadouts(self.logprobs.clone(), self.likeliest.clone())
        parts = (part.to("cpu", non_blocking=True) for part in (self.logprobs, self.likeliest))
        return DeviceReadouts(*parts)

    def on_host(self) -> tuple[np.ndarray, np.ndarray]:
        """As arrays; of a copy that is complete."""
        return self.logprobs.numpy(), self.likeliest.numpy()
