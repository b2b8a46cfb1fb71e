"""The interface of every attention backend.

Three kinds: `full` (an encoder's bidirectional attention over packed sequences), `causal` (a decoder's self-attention over
paged keys and values) and `cross` (a decoder's attention to the encoder's tokens, paged too). Once a step, `plan` does the
host's work for a batch; then each layer calls `run`, which neither allocates what a graph can't hold nor waits for the device.
Keys and values are written by `kv.pool`, never here.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from antiphon.layers.positions import RelativeBias

Kind = Literal["full", "causal", "cross"]


@dataclass(frozen=True)
class AttentionSpec:
    """One attention kind of one model, as the selection sees it."""

    kind: Kind
    num_heads: int
    head_dim: int
    scale: float
    dtype: torch.dtype
    device: torch.device
    bias: bool = False  # an additive relative position bias
    page_size: int | None = None  # of the paged kinds


@dataclass(frozen=True)
class FullBatch:
    """Sequences packed one after the other; `lengths` [sequences] int."""

    lengths: np.ndarray


@dataclass(frozen=True)
class PagedBatch:
    """Queries packed one after the other, keys and values in pages.

    Causal queries are the last `query_lens` of their sequence's `kv_lens` positions; cross queries see all keys.
    """

    query_lens: np.ndarray  # [sequences] int, at least 1
    kv_lens: np.ndarray  # [sequences] int, after this step's keys are written
    page_table: np.ndarray  # [sequences, pages] int; entries past a sequence's last page are any valid page


class AttentionBackend(ABC):
    """One backend, made for one `AttentionSpec`; shared by all layers of a half that have that spec."""

    name: ClassVar[str]

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec

    @abstractmethod
    def plan(self, batch: FullBatch | PagedBatch) -> Any:
        """The host's work for one step: index tensors, masks, workspace. Returns what `run` needs."""

    @abstractmethod
    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: Any, bias: RelativeBias | None = None) -> torch.Tensor:
        """Attention output [tokens, heads, head_dim] for queries `q` of that shape.

        full: `k`, `v` are [tokens, heads, head_dim]. causal, cross: one layer's pages [pages, page_size, heads, head_dim].
        """
