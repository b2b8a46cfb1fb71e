"""What the scheduler hands to the decoder for one step, and what it gets back. Plain arrays: they cross processes as they are."""

from dataclasses import dataclass

import numpy as np

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams


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


@dataclass(frozen=True)
class StepResult:
    tokens: np.ndarray  # [sequences]
    logprobs: Logprobs | None = None
