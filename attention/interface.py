"""The interface of every attention backend.

Three kinds: `full` (an encoder's bidirectional attention over packed sequences), `causal` (a decoder's self-attention over
paged keys and values) and `cross` (a decoder's attention to the encoder's tokens, paged too). Once a step, `plan` does the
host's work for a batch; then each layer calls `run`, which neither allocates what a graph can't hold nor waits for the device.
Keys and values are written by `kv.pool`, never here.

A batch comes twice: as numpy arrays for backends that plan on the host, and as tensors on the device for kernels that read
lengths and page tables themselves. Graphs are captured over the tensors: their contents change, their addresses don't.
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
    kv_dtype: torch.dtype | None = None  # of the paged kinds, where it is not `dtype`
    ragged: bool = False  # full: sequences come in any lengths (text), not as equal windows (sound)


@dataclass(frozen=True)
class FullBatch:
    """Sequences packed one after the other."""

    lengths: np.ndarray  # [sequences] int
    starts: torch.Tensor  # [sequences + 1] int32, on the device
    max_len: int  # at least the longest length

    @classmethod
    def of(cls, lengths: np.ndarray, device: torch.device) -> "FullBatch":
        return cls(lengths, starts_of(lengths).to(device), int(lengths.max()))


@dataclass(frozen=True)
class PagedBatch:
    """Queries packed one after the other, keys and values in pages.

    Causal queries are the last `query_lens` of their sequence's `kv_lens` positions; cross queries see all keys.
    Entries of the page table past a sequence's last page are any valid page.
    """

    query_lens: np.ndarray  # [sequences] int, at least 1
    kv_lens: np.ndarray  # [sequences] int, after this step's keys are written
    page_table: np.ndarray  # [sequences, pages] int
    query_starts_on_device: torch.Tensor  # [sequences + 1] int32
    kv_lens_on_device: torch.Tensor  # [sequences] int32
    page_table_on_device: torch.Tensor  # [sequences, pages] int32; rows may be strided
    num_tokens: int  # rows of the queries' tensor: at least the sum of `query_lens`
    max_query_len: int  # at least the longest; a graph's own bound
    max_kv_len: int  # likewise

    @classmethod
    def of(
        cls,
        query_lens: np.ndarray,
        kv_lens: np.ndarray,
        page_table: np.ndarray,
        device: torch.device,
    ) -> "PagedBatch":
        return cls(
            query_lens, kv_lens, page_table,
            starts_of(query_lens).to(device), _int32(kv_lens).to(device), _int32(page_table).to(device),
            int(query_lens.sum()), int(query_lens.max()), int(kv_lens.max()),
        )  # fmt: skip


def starts_of(lengths: np.ndarray) -> torch.Tensor:
    """Where packed sequences begin, and where the last one ends: [sequences + 1] int32, on the host."""
    return _int32(np.concatenate([[0], np.cumsum(lengths)]))


def _int32(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.int32))


class AttentionBackend(ABC):
    """One backend, made for one `AttentionSpec`; shared by all layers of a half that have that spec."""

    name: ClassVar[str]

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec

    @abstractmethod
    def plan(self, batch: FullBatch | PagedBatch) -> Any:
        """The host's work for one step: index tensors, masks, workspace. Returns what `run` needs."""

    def replan(self, plan: Any, batch: FullBatch | PagedBatch) -> None:  # noqa: B027 (most have nothing to do)
        """Before a captured graph is replayed for `batch`, whose tensors are those that `plan` was made with: whatever the
        host must do again. Nothing for kernels that read lengths and page tables on the device."""

    @abstractmethod
    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        plan: Any,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        """Attention output [tokens, heads, head_dim] for queries `q` of that shape.

        full: `k`, `v` are [tokens, heads, head_dim]. causal, cross: one layer's pages [pages, page_size, heads, head_dim].
        """
