"""What the scheduler hands to a decoder for one step, and what it gets back. Plain arrays, which
can cross processes as they are."""

from dataclasses import dataclass

import numpy as np

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.request import Request, TokenLogprobs


@dataclass(frozen=True)
class Admission:
    """A sequence that takes a slot: everything that the device must know of it from now on."""

    slot: int
    token_ids: np.ndarray  # [tokens] prompt, and what was generated before a preemption
    prompt_len: int
    max_len: int
    seed: int
    params: SamplingParams
    rules: DecodingRules

    @classmethod
    def of(cls, request: Request, token_ids: np.ndarray) -> "Admission":
        """Of `request`, which has a slot, with its `token_ids` [tokens] so far."""
        return cls(
            request.slot, token_ids, len(request.prompt_token_ids), request.max_len, request.seed,
            request.params, request.rules,
        )  # fmt: skip


@dataclass(frozen=True)
class CrossWrite:
    """Cross KV that this step writes, from the hidden states of `key`."""

    key: str
    num_tokens: int  # of the encoder
    pages: np.ndarray  # [pages] int32


@dataclass(frozen=True)
class StepPlan:
    """One step: a forward of the decoder, in which every sequence runs its last `query_lens` tokens
    and samples the next one.

    Rows are ordered: decodes (one query) first, then prompts.
    """

    admissions: list[Admission]
    cross_writes: list[CrossWrite]
    slots: np.ndarray  # [sequences] rows of the batch
    # [sequences] the requests' order of arrival: a slot may change hands before the result comes
    ids: np.ndarray
    query_lens: np.ndarray  # [sequences] at least 1
    kv_lens: np.ndarray  # [sequences] once this step's keys are written
    self_table: np.ndarray  # [sequences, pages]
    cross_table: np.ndarray  # [sequences, pages]
    cross_lens: np.ndarray  # [sequences]

    @property
    def num_tokens(self) -> int:
        return int(self.query_lens.sum())


@dataclass(frozen=True)
class Logprobs:
    """Natural logarithms of probabilities, for the rows of a step that ask: of the chosen token and
    of the k likeliest."""

    rows: np.ndarray  # [asking] indices into the step's sequences
    chosen: np.ndarray  # [asking]
    chosen_rank: np.ndarray  # [asking]
    top_ids: np.ndarray  # [asking, k]
    top: np.ndarray  # [asking, k]

    def of_token(self, index: int, token: int, count: int) -> TokenLogprobs:
        """Those of row `rows[index]`: of its chosen `token` and of the `count` likeliest."""
        count = min(count, self.top_ids.shape[1])  # a vocabulary may have fewer
        return TokenLogprobs(
            ids=[token, *self.top_ids[index, :count].tolist()],
            logprobs=[float(self.chosen[index]), *self.top[index, :count].tolist()],
            ranks=[int(self.chosen_rank[index]), *range(1, count + 1)],
        )


@dataclass(frozen=True)
class StepResult:
    """What a step sampled."""

    tokens: np.ndarray  # [sequences] int64, in the order of the plan's rows
    logprobs: Logprobs | None = None
