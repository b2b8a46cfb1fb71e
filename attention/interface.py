"""The two interfaces of attention backends.

`FullAttention` is an encoder's bidirectional attention over packed sequences. `PagedAttention` is
a decoder's: `causal` self-attention and `cross` attention to the encoder's tokens, both over keys
and values in pages. Where cross-attention reads the encoder's hidden states in their place it is
`latent`: one head of keys, as wide as the states, which are the values too. Once a step, `plan`
does the host's work for a batch and returns the backend's metadata. Then every layer calls `run`
with it, which neither allocates what a CUDA graph can't hold nor waits for the device. Keys and
values are written by `kv.pool`, never here.

A batch holds its lengths twice: as numpy arrays, for backends that plan on the host, and as
tensors on the device, for kernels that read lengths and page tables themselves. Graphs are
captured over the tensors: their contents change from step to step, their addresses don't.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, TypeVar

import msgspec
import numpy as np
import torch

from antiphon.layers.positions import RelativeBias

Kind = Literal["full", "causal", "cross", "latent"]
M = TypeVar("M")  # a backend's metadata: what `plan` returns and `run` reads


@dataclass(frozen=True)
class AttentionSpec:
    """One attention kind of one model, as the selection sees it."""

    kind: Kind
    num_heads: int  # of queries
    num_kv_heads: int  # each is read by equally many heads of queries, one after the other
    head_dim: int
    scale: float
    dtype: torch.dtype
    device: torch.device
    bias: bool = False  # an additive relative position bias
    page_size: int | None = None  # tokens in a page, for the paged kinds
    # Of keys and values where it is not `dtype`: in pages; full: in products, queries' too.
    kv_dtype: torch.dtype | None = None
    ragged: bool = False  # full: sequences have any lengths (text); otherwise equal windows (audio)
    window_bias: bool = False  # full: an additive bias of windows of one size (`run_windows`)
    score_cap: float | None = None  # scores are `score_cap * tanh(score / score_cap)`


@dataclass(frozen=True)
class FullBatch:
    """Sequences packed one after the other."""

    lengths: np.ndarray  # [sequences] int
    cu_seqlens: torch.Tensor  # [sequences + 1] int32, on the device
    max_len: int  # at least the longest length

    @classmethod
    def of(cls, lengths: np.ndarray, device: torch.device) -> "FullBatch":
        return cls(lengths, cumulative(lengths).to(device), int(lengths.max()))


class PagedBatch(msgspec.Struct, frozen=True):
    """Queries packed one after the other; keys and values in pages.

    Causal queries are the last `query_lens` of their sequence's `kv_lens` positions; cross
    queries see all keys. Entries of the page table past a sequence's last page are any valid
    page. Arrays on the host may be overwritten once the step is planned.
    """

    query_lens: np.ndarray  # [sequences] int, at least 1
    kv_lens: np.ndarray  # [sequences] int, after this step's keys are written
    host_tables: np.ndarray  # [slots, pages] int32
    slots: np.ndarray  # [sequences] int: whose rows of `host_tables` they are
    cu_seqlens_q: torch.Tensor  # [sequences + 1] int32, on the device
    kv_lens_on_device: torch.Tensor  # [sequences] int32
    page_table_on_device: torch.Tensor  # [sequences, pages] int32; rows may be strided
    num_tokens: int  # rows of the queries' tensor: at least the sum of `query_lens`
    max_query_len: int  # at least the longest; for a graph, its own bound
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
            query_lens=query_lens,
            kv_lens=kv_lens,
            host_tables=page_table,
            slots=np.arange(len(page_table)),
            cu_seqlens_q=cumulative(query_lens).to(device),
            kv_lens_on_device=_int32(kv_lens).to(device),
            page_table_on_device=_int32(page_table).to(device),
            num_tokens=int(query_lens.sum()),
            max_query_len=int(query_lens.max()),
            max_kv_len=int(kv_lens.max()),
        )

    @property
    def page_table(self) -> np.ndarray:
        """[sequences, pages] int, gathered on the host: for backends that plan there."""
        return self.host_tables.take(self.slots, axis=0)

    @property
    def single_queries(self) -> bool:
        """Every sequence has one query. So it then is in all steps that replay a graph captured
        with this batch; longer queries of equal lengths may be others at the next replay."""
        return self.max_query_len == 1


def cumulative(lengths: np.ndarray) -> torch.Tensor:
    """cu_seqlens on the host: where packed sequences begin, and where the last one ends.

    [sequences + 1] int32.
    """
    return _int32(np.concatenate([[0], np.cumsum(lengths)]))


def _int32(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.int32))


class AttentionBackend(ABC):
    """One backend, made for one `AttentionSpec`. All layers of a half with that spec share it."""

    name: ClassVar[str]  # its row in `attention/registry.py`

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec


class FullAttention(AttentionBackend, Generic[M]):
    """Bidirectional attention over packed sequences."""

    @abstractmethod
    def plan(self, batch: FullBatch) -> M:
        """The host's work for one batch: index tensors, masks, workspace."""

    @abstractmethod
    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: M,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        """Queries and result [tokens, heads, head_dim]; `k`, `v` [tokens, kv_heads, head_dim]."""

    def run_windows(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, metadata: M, bias: torch.Tensor
    ) -> torch.Tensor:
        """As `run`, of sequences that are all equally long. `bias` [1, heads, length, length] is
        added to the scores of each. Only backends that declare it have it."""
        raise NotImplementedError(f"{self.name} adds no bias to windows")


class PagedAttention(AttentionBackend, Generic[M]):
    """Causal or cross attention over keys and values in pages."""

    @abstractmethod
    def plan(self, batch: PagedBatch) -> M:
        """The host's work for one step: index tensors, masks, workspace."""

    def replan(self, metadata: M, batch: PagedBatch) -> None:
        """Renews `metadata` before a captured graph is replayed for `batch`.

        `batch` has the tensors that `plan` saw, with new contents. Kernels that read lengths and
        page tables on the device need nothing more.
        """

    @abstractmethod
    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: M,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        """Queries and result [tokens, heads, head_dim]; `k`, `v` are one layer's pages
        [pages, page_size, kv_heads, head_dim]."""


class PlannedAttention(msgspec.Struct, Generic[M], frozen=True):
    """Paged attention of one kind in one step: a backend with the metadata that it made."""

    backend: PagedAttention[M]
    metadata: M

    @classmethod
    def of(cls, backend: PagedAttention[M], batch: PagedBatch) -> "PlannedAttention[M]":
        return cls(backend, backend.plan(batch))

    def replan(self, batch: PagedBatch) -> None:
        """See `PagedAttention.replan`."""
        self.backend.replan(self.metadata, batch)

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        """See `PagedAttention.run`."""
        return self.backend.run(q, k, v, self.metadata, bias)
