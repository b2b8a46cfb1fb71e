"""The reference backend: torch's scaled_dot_product_attention on sequences padded to equal length.

Runs everywhere, for every kind, dtype and head size, with T5's bias materialised. The paged kinds gather their pages
first; that costs two more passes over the keys and values than a kernel that reads pages needs. Packed sequences of one length
(all of an audio encoder's) need no padding and no copy.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from antiphon.attention.interface import AttentionBackend, FullBatch, PagedBatch
from antiphon.layers.positions import RelativeBias


@dataclass
class PaddedGroup:
    """Sequences of a step that are computed together, padded to their longest.

    `query_rows` [sequences, queries] picks packed queries (padding repeats row 0); `out_rows` are the packed rows that
    this group's valid outputs go to, `out_index` where they are in the padded output.
    """

    query_rows: torch.Tensor
    out_rows: torch.Tensor
    out_index: torch.Tensor
    pages: (
        torch.Tensor | None
    )  # [sequences, pages]; None for packed keys, which `query_rows` picks too
    mask: (
        torch.Tensor | None
    )  # [sequences, 1, queries, keys] bool; None where every query sees every key
    distance: torch.Tensor  # [sequences or 1, queries, keys] key position - query position
    keys: int
    bias: torch.Tensor | None = field(
        default=None
    )  # materialised by the first layer, read by the others


@dataclass
class SdpaPlan:
    groups: list[PaddedGroup]


@dataclass(frozen=True)
class UniformPlan:
    """All sequences are equally long."""

    sequences: int


# Of torch's own kernels, the fastest first (benchmarks/results).
PREFERENCE = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


class TorchSdpa(AttentionBackend):
    name = "torch_sdpa"

    def plan(self, batch: FullBatch | PagedBatch) -> SdpaPlan | UniformPlan:
        if isinstance(batch, FullBatch):
            if not self.spec.bias and (batch.lengths == batch.lengths[0]).all():
                return UniformPlan(len(batch.lengths))
            return SdpaPlan(
                [
                    self._group(each, batch.lengths, batch.lengths, None)
                    for each in _of_similar_length(batch.lengths)
                ]
            )
        # Decodes (one query) beside prompts (several): two groups, so that a prompt does not pad every decode.
        single = batch.query_lens == 1
        members = [np.flatnonzero(single), np.flatnonzero(~single)]
        return SdpaPlan(
            [
                self._group(each, batch.query_lens, batch.kv_lens, batch.page_table)
                for each in members
                if len(each)
            ]
        )

    def _group(
        self,
        members: np.ndarray,
        query_lens: np.ndarray,
        kv_lens: np.ndarray,
        table: np.ndarray | None,
    ) -> PaddedGroup:
        starts = (np.cumsum(query_lens) - query_lens)[members]
        queries, kv = query_lens[members], kv_lens[members]
        column = np.arange(queries.max())[None, :]
        valid = column < queries[:, None]  # [sequences, queries]
        query_rows = np.where(valid, starts[:, None] + column, 0)
        keys = int(kv.max())
        key_at = np.arange(keys)[None, None, :]
        causal = self.spec.kind == "causal"
        query_at = (
            (kv - queries)[:, None] + column if causal else column
        )  # the same for all sequences unless causal
        visible = key_at < kv[:, None, None]
        if causal:
            visible = visible & (key_at <= query_at[:, :, None])
        pages = None
        if table is not None:
            assert self.spec.page_size is not None
            pages = table[members, : -(-keys // self.spec.page_size)]
        return PaddedGroup(
            query_rows=self._tensor(query_rows),
            out_rows=self._tensor(query_rows[valid]),
            out_index=self._tensor(np.flatnonzero(valid)),
            pages=None if pages is None else self._tensor(pages),
            mask=None if visible.all() else self._tensor(visible)[:, None],
            distance=self._tensor(key_at - query_at[:, :, None]),
            keys=keys,
        )

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        kept = array if array.dtype == np.bool_ else array.astype(np.int64)
        return torch.from_numpy(np.ascontiguousarray(kept)).to(self.spec.device)

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        plan: SdpaPlan | UniformPlan,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        if isinstance(plan, UniformPlan):
            q, k, v = (
                each.unflatten(0, (plan.sequences, -1)).transpose(1, 2) for each in (q, k, v)
            )
            return self._attend(q, k, v, None).transpose(1, 2).flatten(0, 1)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for group in plan.groups:
            padded_q = q[group.query_rows].transpose(1, 2)  # [sequences, heads, queries, head_dim]
            padded_k, padded_v = (self._keys(each, group).to(q.dtype) for each in (k, v))
            mask = group.mask
            if bias is not None:
                mask = self._additive(group, bias, q.dtype)
            found = self._attend(padded_q, padded_k, padded_v, mask)
            flat = found.transpose(1, 2).reshape(-1, *q.shape[1:])
            out[group.out_rows] = flat[group.out_index]
        return out

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        if q.device.type == "cpu":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.spec.scale)
        with sdpa_kernel(PREFERENCE, set_priority=True):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.spec.scale)

    def _keys(self, keys: torch.Tensor, group: PaddedGroup) -> torch.Tensor:
        """[sequences, heads, keys, head_dim] of packed or paged keys (or values)."""
        if group.pages is None:
            return keys[group.query_rows].transpose(1, 2)
        gathered = keys[group.pages].flatten(
            1, 2
        )  # [sequences, pages * page_size, heads, head_dim]
        return gathered[:, : group.keys].transpose(1, 2)

    def _additive(self, group: PaddedGroup, bias: RelativeBias, dtype: torch.dtype) -> torch.Tensor:
        if group.bias is None:
            added = bias.materialise(group.distance).to(dtype)
            group.bias = (
                added if group.mask is None else added.masked_fill(~group.mask, float("-inf"))
            )
        return group.bias


def _of_similar_length(lengths: np.ndarray) -> list[np.ndarray]:
    """Members of each group, so that padding adds a quarter to a sequence's length at most (beyond the shortest ones)."""
    order = np.argsort(lengths, kind="stable")
    steps = np.floor(np.log(np.maximum(lengths[order], 16)) / np.log(1.25))
    return np.split(order, np.flatnonzero(np.diff(steps)) + 1)
