"""The tokens of a step's rows, with log-probabilities and ranks, in one tensor that
goes to the host as it is."""

import msgspec
import numpy as np
import torch

# One row on the host; `kernels/sampling_choice.py` writes the same on the device.
_ROW = np.dtype(
    [
        ("token", np.int64),
        ("logprob", np.float32),
        ("restricted_logprob", np.float32),
        ("rank", np.int64),
    ]
)
_NUMBERS = _ROW.itemsize // 8


class Samples(msgspec.Struct, frozen=True):
    """`packed` [rows, 3] int64, on the device or going to the host. Views of it,
    [rows]:

        tokens               int64
        logprobs             float32; natural logarithm of the token's probability under
                             the raw logits
        restricted_logprobs  float32; likewise under the logits that the rules have
                             changed, before temperature and filters; 0 for a token that
                             the model prescribes
        ranks                int64; from 1, among the raw logits, of rows that ask for
                             log-probabilities
    """

    packed: torch.Tensor

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> "Samples":
        return cls(torch.zeros(rows, _NUMBERS, dtype=torch.int64, device=device))

    def first(self, rows: int) -> "Samples":
        """Of the first `rows` rows."""
        return Samples(self.packed[:rows])

    @property
    def tokens(self) -> torch.Tensor:
        return self.packed[:, 0]

    @property
    def logprobs(self) -> torch.Tensor:
        return self.packed.view(torch.float32)[:, 2]

    @property
    def restricted_logprobs(self) -> torch.Tensor:
        return self.packed.view(torch.float32)[:, 3]

    @property
    def ranks(self) -> torch.Tensor:
        return self.packed[:, 2]

    def write(
        self,
        raw: torch.Tensor,
        restricted: torch.Tensor,
        tokens: torch.Tensor,
        is_forced: torch.Tensor | None,
        is_ranked: torch.Tensor | None,
        log_sums: torch.Tensor | None,
    ) -> None:
        """Puts in `tokens` [rows] int64 and numbers of their logits [rows, vocabulary].

        `is_forced`, `is_ranked`: rows [rows] bool of which that is true; None: no row.
        `log_sums` [rows]: log-sum-exp of the raw logits; None: not known yet.
        """
        raw_logprobs = (
            logprobs_of(raw, tokens)
            if log_sums is None
            else raw.gather(1, tokens[:, None])[:, 0] - log_sums
        )
        self.put(
            tokens,
            raw_logprobs,
            logprobs_of(restricted, tokens) if restricted is not raw else raw_logprobs,
            is_forced,
        )
        if is_ranked is not None:
            self.ranks.copy_(ranks_of(raw, tokens) * is_ranked)

    def set(self, tokens: np.ndarray, logprobs: np.ndarray, ranks: np.ndarray) -> None:
        """Takes these in where the device is the host: `logprobs` [rows, 2], raw and restricted,
        the others [rows]."""
        rows = self.on_host()
        rows["token"], rows["rank"] = tokens, ranks
        rows["logprob"], rows["restricted_logprob"] = logprobs.T

    def put(
        self,
        tokens: torch.Tensor,
        logprobs: torch.Tensor,
        restricted_logprobs: torch.Tensor,
        is_forced: torch.Tensor | None,
    ) -> None:
        """Takes these in, [rows] each, without ranks. `is_forced`: as for `write`."""
        self.tokens.copy_(tokens)
        self.logprobs.copy_(logprobs)
        self.restricted_logprobs.copy_(restricted_logprobs)
        if is_forced is not None:
            self.restricted_logprobs.masked_fill_(is_forced, 0.0)
        self.ranks.zero_()

    def log_sums(self, raw: torch.Tensor) -> torch.Tensor:
        """Log-sum-exp [rows] of these samples' logits, `raw` [rows, vocabulary]."""
        return raw.gather(1, self.tokens[:, None])[:, 0] - self.logprobs

    def replace(self, index: torch.Tensor, other: "Samples") -> None:
        """Takes the rows of `other` in, in place of those at `index`."""
        self.packed.index_copy_(0, index, other.packed)

    def start_copy(self) -> "Samples":
        """A copy on the host, complete when the device has come so far."""
        if self.packed.device.type == "cpu":
            return Samples(self.packed.clone())
        host = torch.empty(self.packed.shape, dtype=torch.int64, pin_memory=True)
        return Samples(host.copy_(self.packed, non_blocking=True))

    def on_host(self) -> np.ndarray:
        """[rows] with the fields "token", "logprob", "restricted_logprob" and "rank".
        The copy to the host must be complete."""
        rows: np.ndarray = self.packed.numpy().view(_ROW)[:, 0]
        return rows


def logprobs_of(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Natural log-probabilities [rows] of `tokens` under `logits` [rows,
    vocabulary]."""
    return logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


def ranks_of(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Ranks [rows] int64, from 1, of `tokens` among `logits` [rows, vocabulary]."""
    return (logits > logits.gather(1, tokens[:, None])).sum(-1) + 1
