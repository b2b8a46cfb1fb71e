"""What the scheduler hands to the decoder for one step, and what it gets back. Plain arrays: they cross processes as they are."""

from dataclasses import dataclass

import numpy as np

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.request import Request, TokenLogprobs


@dataclass(frozen=True)
class Admission:
    """A sequence that takes a place in the batch: everything the device must know of it from now on."""

    slot: int
    token_ids: np.ndarray  # prompt, and what it had generated before a preemption
    prompt_len: int
    max_len: int
    seed: int
    params: SamplingParams
    rules: DecodingRules

    @classmethod
    def of(cls, request: Request, token_ids: np.ndarray) -> "Admission":
        """`token_ids`: of `request` so far; it has a slot."""
        return cls(
            request.slot, token_ids, len(request.prompt_token_ids), request.max_len, request.seed,
            request.params, request.rules,
        )  # fmt: skip


@dataclass(frozen=True)
class CrossWrite:
    """Hidden states whose cross KV this step writes."""

    key: str
    num_tokens: int
    pages: np.ndarray


@dataclass(frozen=True)
class StepPlan:
    """One forward of the decoder. Every sequence runs its last `query_lens` tokens and samples the next one.

    Rows are ordered: decodes (one query) first, then prompts.
    """

    admissions: list[Admission]
    cross_writes: list[CrossWrite]
    slots: np.ndarray  # [sequences] rows of the batch
    ids: (
        np.ndarray
    )  # [sequences] of the requests: a slot may have another one when the result comes
    query_lens: np.ndarray  # [sequences]
    kv_lens: np.ndarray  # [sequences] after this step's keys are written
    self_table: np.ndarray  # [sequences, pages]
    cross_table: np.ndarray  # [sequences, pages]
    cross_lens: np.ndarray  # [sequences]

    @property
    def num_tokens(self) -> int:
        return int(self.query_lens.sum())


@dataclass(frozen=True)
class Logprobs:
    """For the rows of a step that asked: chosen token and the k likeliest."""

    rows: np.ndarray  # [asking] indices into the step's sequences
    chosen: np.ndarray  # [asking]
    chosen_rank: np.ndarray  # [asking]
    top_ids: np.ndarray  # [asking, k]
    top: np.ndarray  # [asking, k]

    def of_token(self, index: int, token: int, count: int) -> TokenLogprobs:
        """Of row `rows[index]`, whose chosen token is `token`: that one and the `count` likeliest."""
        count = min(count, self.top_ids.shape[1])  # a vocabulary may have fewer
        return TokenLogprobs(
            ids=[token, *self.top_ids[index, :count].tolist()],
            logprobs=[float(self.chosen[index]), *self.top[index, :count].tolist()],
            ranks=[int(self.chosen_rank[index]), *range(1, count + 1)],
        )


@dataclass(frozen=True)
class StepResult:
    tokens: np.ndarray  # [sequences]
    logprobs: Logprobs | None = None
