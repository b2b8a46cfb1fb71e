"""The size of a step, and the tensors that it reads beside weights."""

from dataclasses import dataclass

import msgspec
import numpy as np
import torch

from antiphon.attention.interface import PagedBatch
from antiphon.scheduler.plan import StepPlan

NO_COLUMN = -1
# The copied numbers of each row, int32, and their values in rows of padding.
# `cross_lens`, and `kv_lens` as `lengths`, are also read as they are.
SCRATCH = None
ROW_FIELDS = {
    "slots": SCRATCH,
    "sample_slots": SCRATCH,
    "query_lens": 1,
    "kv_lens": 1,
    "cross_lens": 1,
    "new_columns": NO_COLUMN,
    "new_pages": 0,
}
GRAPH_READOUTS = 32  # that a step in a graph has room for


@dataclass(frozen=True)
class StepShape:
    """What a graph is captured for: a step's sizes with padding, and bounds of
    lengths."""

    sequences: int
    tokens: int
    max_query_len: int  # of each sequence
    max_kv_len: int
    max_cross_len: int
    readouts: int = 0
    drafts: int = 0  # of each sequence; 0: of none
    states: bool = False  # hidden states may stand in place of tokens

    @property
    def per_row(self) -> int:
        """Samples of each sequence."""
        return self.drafts + 1

    @classmethod
    def of(cls, plan: StepPlan, cross_lens: np.ndarray) -> "StepShape":
        """The shape of `plan` itself, without padding; `cross_lens` [rows]."""
        query, kv, cross = (int(lens.max()) for lens in (plan.query_lens, plan.kv_lens, cross_lens))
        drafts = 0 if plan.drafts is None else plan.drafts.most
        sizes = (len(plan.slots), plan.num_tokens, query, kv, cross)
        return cls(*sizes, len(plan.readouts), drafts, bool(plan.embeddings))


@dataclass(frozen=True)
class StepTensors:
    """On the device, int32 but for token ids. Rows behind the step's own are padding:
    each a sequence of one token on the scratch page."""

    rows: dict[str, torch.Tensor]  # [sequences] each, by the names of ROW_FIELDS
    readout_queries: torch.Tensor  # [readouts] tokens of the step
    readout_tokens: torch.Tensor  # [readouts] whose log-probability is asked for behind those
    cu_seqlens_q: torch.Tensor  # [sequences + 1]
    last_tokens: torch.Tensor  # [sequences] index of each sequence's last token in the step
    token_slots: torch.Tensor  # [tokens] the slot of each token
    positions: torch.Tensor  # [tokens] places in their sequence
    slot_mapping: torch.Tensor  # [tokens] where self keys go: page * page_size + offset
    token_ids: torch.Tensor  # [tokens] int64
    table_rows: torch.Tensor  # [sequences, width] rows of `PageTables`
    self_pages: torch.Tensor  # [sequences, pages] of them
    cross_pages: torch.Tensor  # likewise


class StepInputs(msgspec.Struct, frozen=True):
    """The tensors of one step, and its batch as attention backends see it."""

    shape: StepShape
    tensors: StepTensors
    causal: PagedBatch
    cross: PagedBatch  # without pages where the decoder has no cross-attention

    @property
    def sample_slots(self) -> torch.Tensor:
        """Slots [sequences]; the scratch slot where a row samples nothing."""
        return self.tensors.rows["sample_slots"]

    @property
    def lengths(self) -> torch.Tensor:
        """[sequences] tokens so far."""
        return self.tensors.rows["kv_lens"]
