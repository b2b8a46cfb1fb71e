"""Our own kernels, written in Triton: every kind, any head size, T5's bias, float8 pages."""

from dataclasses import dataclass

import torch

from antiphon.attention.interface import (
    AttentionSpec,
    FullAttention,
    FullBatch,
    PagedAttention,
    PagedBatch,
)
from antiphon.config.arithmetic import ceil_div
from antiphon.kernels.formats import FLOAT8
from antiphon.kernels.full_attention import full_attention
from antiphon.kernels.latent_attention import LatentLaunch, latent_attention
from antiphon.kernels.paged_attention import BLOCK_M, paged_attention
from antiphon.kernels.paged_launch import PagedLaunch
from antiphon.kernels.paged_splits import Workspace
from antiphon.layers.positions import RelativeBias


class TritonFull(FullAttention[FullBatch]):
    name = "triton"

    def plan(self, batch: FullBatch) -> FullBatch:
        return batch

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: FullBatch,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        tiles = None if bias is None else bias.tiles
        return full_attention(
            q, k, v, metadata.cu_seqlens, metadata.max_len, self.spec.scale, tiles
        )


@dataclass(frozen=True)
class TritonPagedMetadata:
    batch: PagedBatch
    launch: PagedLaunch
    workspace: Workspace


class TritonPaged(PagedAttention[TritonPagedMetadata]):
    name = "triton"

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__(spec)
        self._multiprocessors = _multiprocessors(spec.device)
        self._workspace: Workspace | None = None

    def plan(self, batch: PagedBatch) -> TritonPagedMetadata:
        spec = self.spec
        sequences, group = len(batch.query_lens), spec.num_heads // spec.num_kv_heads
        q_blocks = ceil_div(batch.max_query_len * group, BLOCK_M)
        launch = PagedLaunch.choose(
            spec.kind,
            sequences,
            q_blocks,
            spec.num_kv_heads,
            spec.head_dim,
            batch.max_kv_len,
            self._multiprocessors,
            spec.kv_dtype == FLOAT8 and group == 1,
        )
        workspace = self._workspace_for(launch.splits, batch.num_tokens, sequences * q_blocks)
        return TritonPagedMetadata(batch, launch, workspace)

    def _workspace_for(self, splits: int, tokens: int, blocks: int) -> Workspace:
        """One workspace for all steps, which follow each other on one stream.

        The metadata of a graph keeps the workspace that the graph was captured with.
        """
        sizes = (splits, tokens, blocks, self.spec.num_heads, self.spec.head_dim)
        if self._workspace is None or not self._workspace.holds(*sizes):
            self._workspace = Workspace.make(*sizes, self.spec.device)
        return self._workspace

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: TritonPagedMetadata,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        batch = metadata.batch
        return paged_attention(
            q,
            k,
            v,
            batch.cu_seqlens_q,
            batch.kv_lens_on_device,
            batch.page_table_on_device,
            metadata.launch,
            metadata.workspace,
            max_query_len=batch.max_query_len,
            scale=self.spec.scale,
            causal=self.spec.kind == "causal",
            bias=None if bias is None else bias.table(),
        )


@dataclass(frozen=True)
class TritonLatentMetadata:
    batch: PagedBatch
    launch: LatentLaunch
    workspace: Workspace


class TritonLatent(PagedAttention[TritonLatentMetadata]):
    """Attention to hidden states, which are keys and values at once."""

    name = "triton"

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__(spec)
        self._multiprocessors = _multiprocessors(spec.device)
        self._workspace: Workspace | None = None

    def plan(self, batch: PagedBatch) -> TritonLatentMetadata:
        spec, sequences = self.spec, len(batch.query_lens)
        rows = batch.max_query_len * spec.num_heads
        launch = LatentLaunch.choose(
            sequences,
            rows,
            spec.head_dim,
            (spec.kv_dtype or spec.dtype).itemsize,
            batch.max_kv_len,
            self._multiprocessors,
        )
        # Of one head of rows: programs take all of them.
        blocks, width = sequences * launch.blocks(rows), launch.chunk * launch.chunks
        sizes = (launch.splits, batch.num_tokens * spec.num_heads, blocks, 1, width)
        if self._workspace is None or not self._workspace.holds(*sizes):
            # Graphs keep those that they were captured with: a few sizes, which others fit.
            tokens, blocks = (1 << (count - 1).bit_length() for count in sizes[1:3])
            self._workspace = Workspace.make(launch.splits, tokens, blocks, 1, width, spec.device)
        return TritonLatentMetadata(batch, launch, self._workspace)

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: TritonLatentMetadata,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        assert k is v or k.data_ptr() == v.data_ptr(), "hidden states are keys and values at once"
        batch = metadata.batch
        return latent_attention(
            q,
            k.squeeze(2),
            batch.cu_seqlens_q,
            batch.kv_lens_on_device,
            batch.page_table_on_device,
            metadata.launch,
            metadata.workspace,
            max_query_len=batch.max_query_len,
            scale=self.spec.scale,
        )


def _multiprocessors(device: torch.device) -> int:
    """1 without a GPU: there Triton's interpreter runs the kernels, for tests."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
