"""The reference backend: torch's scaled_dot_product_attention on sequences padded to equal length.

Runs everywhere, for every kind, dtype and head size, with T5's bias materialized. The paged kinds
gather their pages first; that costs two more passes over the keys and values than a kernel that
reads pages. Packed sequences of one length (all of an audio encoder's) need no padding and no
copy.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from antiphon.attention.backends import float8_reference
from antiphon.attention.interface import (
    AttentionSpec,
    FullAttention,
    FullBatch,
    PagedAttention,
    PagedBatch,
)
from antiphon.config.arithmetic import ceil_div
from antiphon.kernels.formats import FLOAT8
from antiphon.layers.positions import RelativeBias

# Of torch's own kernels, the fastest first (benchmarks/results).
PREFERENCE = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


@dataclass
class PaddedGroup:
    """Sequences of a step that are computed together, padded to their longest.

    `query_rows` [sequences, queries] picks packed queries (padding repeats row 0). `out_rows` are
    the packed rows that this group's valid outputs go to, `out_index` their rows in the padded
    output. `pages` [sequences, pages] is None for packed keys, which `query_rows` picks too.
    `mask` [sequences, 1, queries, keys] bool is None where every query sees every key. `distance`
    [sequences or 1, queries, keys] is key position - query position.
    """

    query_rows: torch.Tensor
    out_rows: torch.Tensor
    out_index: torch.Tensor
    pages: torch.Tensor | None
    mask: torch.Tensor | None
    distance: torch.Tensor
    keys: int
    bias: torch.Tensor | None = None  # materialized by the first layer, read by the others

    @classmethod
    def of(
        cls,
        members: np.ndarray,
        query_lens: np.ndarray,
        kv_lens: np.ndarray,
        table: np.ndarray | None,
        spec: AttentionSpec,
    ) -> "PaddedGroup":
        """The sequences `members` of a batch; `table` is its page table, None for packed keys."""
        first_rows = (np.cumsum(query_lens) - query_lens)[members]
        queries, kv = query_lens[members], kv_lens[members]
        column = np.arange(queries.max())[None, :]
        valid = column < queries[:, None]  # [sequences, queries]
        query_rows = np.where(valid, first_rows[:, None] + column, 0)
        keys = int(kv.max())
        key_position = np.arange(keys)[None, None, :]
        causal = spec.kind == "causal"
        # Unless causal, positions of queries are the same for all sequences.
        query_position = (kv - queries)[:, None] + column if causal else column
        visible = key_position < kv[:, None, None]
        if causal:
            visible = visible & (key_position <= query_position[:, :, None])
        pages = None
        if table is not None:
            assert spec.page_size is not None
            pages = table[members, : ceil_div(keys, spec.page_size)]
        device = spec.device
        return cls(
            query_rows=_tensor(query_rows, device),
            out_rows=_tensor(query_rows[valid], device),
            out_index=_tensor(np.flatnonzero(valid), device),
            pages=None if pages is None else _tensor(pages, device),
            mask=None if visible.all() else _tensor(visible, device)[:, None],
            distance=_tensor(key_position - query_position[:, :, None], device),
            keys=keys,
        )

    def gather(self, keys: torch.Tensor) -> torch.Tensor:
        """[sequences, kv_heads, keys, head_dim] of packed or paged keys (or values)."""
        if self.pages is None:
            return keys[self.query_rows].transpose(1, 2)
        gathered = keys[self.pages].flatten(1, 2)  # [sequences, keys, kv_heads, head_dim]
        return gathered[:, : self.keys].transpose(1, 2)

    def additive_mask(self, bias: RelativeBias, dtype: torch.dtype) -> torch.Tensor:
        """[sequences or 1, heads, queries, keys]: the bias, minus infinity at masked keys."""
        if self.bias is None:
            added = bias.materialize(self.distance).to(dtype)
            if self.mask is not None:
                added = added.masked_fill(~self.mask, float("-inf"))
            self.bias = added
        return self.bias


@dataclass(frozen=True)
class EqualLengths:
    """Metadata of sequences that are all equally long."""

    sequences: int


class SdpaFull(FullAttention[list[PaddedGroup] | EqualLengths]):
    name = "torch_sdpa"

    def plan(self, batch: FullBatch) -> list[PaddedGroup] | EqualLengths:
        lengths = batch.lengths
        if not self.spec.bias and (lengths == lengths[0]).all():
            return EqualLengths(len(lengths))
        return [
            PaddedGroup.of(members, lengths, lengths, None, self.spec)
            for members in _of_similar_length(lengths)
        ]

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: list[PaddedGroup] | EqualLengths,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        if isinstance(metadata, EqualLengths):
            shape = (metadata.sequences, -1)
            q, k, v = (x.unflatten(0, shape).transpose(1, 2) for x in (q, k, v))
            return _attend(q, k, v, None, self.spec).transpose(1, 2).flatten(0, 1)
        return _attend_groups(metadata, q, k, v, bias, self.spec)

    def run_windows(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: list[PaddedGroup] | EqualLengths,
        bias: torch.Tensor,
    ) -> torch.Tensor:
        assert isinstance(metadata, EqualLengths)
        shape = (metadata.sequences, -1)
        q, k, v = (x.unflatten(0, shape).transpose(1, 2) for x in (q, k, v))
        return _attend(q, k, v, bias, self.spec).transpose(1, 2).flatten(0, 1)


class SdpaPaged(PagedAttention[list[PaddedGroup]]):
    name = "torch_sdpa"

    def plan(self, batch: PagedBatch) -> list[PaddedGroup]:
        # Decodes (one query) and prompts (several) form two groups: no prompt pads the decodes.
        single = batch.query_lens == 1
        groups = (np.flatnonzero(single), np.flatnonzero(~single))
        return [
            PaddedGroup.of(members, batch.query_lens, batch.kv_lens, batch.page_table, self.spec)
            for members in groups
            if len(members)
        ]

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: list[PaddedGroup],
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        return _attend_groups(metadata, q, k, v, bias, self.spec)


def _attend_groups(
    groups: list[PaddedGroup],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: RelativeBias | None,
    spec: AttentionSpec,
) -> torch.Tensor:
    """[tokens, heads, head_dim] for packed `q` of that shape; `k`, `v` packed or in pages."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for group in groups:
        rows = q[group.query_rows]  # [sequences, queries, heads, head_dim]
        if spec.kind == "latent":  # queries of the one head of keys: a row for each head
            rows = rows.flatten(1, 2).unsqueeze(2)
        padded_q = rows.transpose(1, 2)
        padded_k, padded_v = group.gather(k).to(q.dtype), group.gather(v).to(q.dtype)
        mask = group.mask if bias is None else group.additive_mask(bias, q.dtype)
        attended = _attend(padded_q, padded_k, padded_v, mask, spec)
        out[group.out_rows] = attended.transpose(1, 2).reshape(-1, *q.shape[1:])[group.out_index]
    return out


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    spec: AttentionSpec,
) -> torch.Tensor:
    """[sequences, heads, tokens, head_dim]; `k`, `v` may have fewer heads. `mask`: bool, or added
    to the scores."""
    if spec.kind == "full" and spec.kv_dtype == FLOAT8:
        return float8_reference.attend(q, k, v, mask, spec.scale)
    if spec.score_cap is not None:
        return _attend_capped(q, k, v, mask, spec.scale, spec.score_cap)
    options: dict[str, Any] = {"attn_mask": mask, "scale": spec.scale}
    options["enable_gqa"] = k.shape[1] < q.shape[1]
    if q.device.type == "cpu":
        return F.scaled_dot_product_attention(q, k, v, **options)
    with sdpa_kernel(PREFERENCE, set_priority=True):
        return F.scaled_dot_product_attention(q, k, v, **options)


def _attend_capped(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    cap: float,
) -> torch.Tensor:
    """As `_attend`, in operations of its own: torch caps no scores. The softmax is float32."""
    shared = q.shape[1] // k.shape[1]
    k, v = (part.repeat_interleave(shared, 1) for part in (k, v))
    scores = ((q * scale) @ k.transpose(2, 3)).float()
    scores = torch.tanh(scores / cap) * cap
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(-1).to(v.dtype) @ v


def _tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A bool mask or int64 indices on `device`."""
    kept = array if array.dtype == np.bool_ else array.astype(np.int64)
    return torch.from_numpy(np.ascontiguousarray(kept)).to(device)


def _of_similar_length(lengths: np.ndarray) -> list[np.ndarray]:
    """Members of each group. Padding adds at most a quarter to a sequence of 16 tokens or more."""
    order = np.argsort(lengths, kind="stable")
    steps = np.floor(np.log(np.maximum(lengths[order], 16)) / np.log(1.25))
    return np.split(order, np.flatnonzero(np.diff(steps)) + 1)
