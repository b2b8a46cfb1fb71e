"""Our own kernels, written in Triton: every kind, any head size, T5's bias, float8 pages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from triton import next_power_of_2

from antiphon.attention.interface import (
    AttentionSpec,
    FullAttention,
    FullBatch,
    PagedAttention,
    PagedBatch,
)
from antiphon.config.arithmetic import ceil_div
from antiphon.kernels import latent_attention, latent_mma, latent_wgmma
from antiphon.kernels.float8_attention import float8_attention
from antiphon.kernels.formats import FLOAT8
from antiphon.kernels.full_attention import full_attention
from antiphon.kernels.latent_launch import LatentLaunch, MmaTile, Tile, TritonTile, WgmmaTile
from antiphon.kernels.paged_attention import BLOCK_M, paged_attention
from antiphon.kernels.paged_launch import PagedLaunch
from antiphon.kernels.paged_splits import Workspace
from antiphon.layers.positions import RelativeBias

L = TypeVar("L", PagedLaunch, LatentLaunch[Tile])


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
        if self.spec.kv_dtype == FLOAT8:
            assert bias is None
            sizes = (metadata.cu_seqlens, metadata.max_len, self.spec.scale)
            return float8_attention(q, k, v, *sizes)
        tiles = None if bias is None else bias.tiles
        return full_attention(
            q, k, v, metadata.cu_seqlens, metadata.max_len, self.spec.scale, tiles
        )


@dataclass(frozen=True)
class TritonMetadata(Generic[L]):
    batch: PagedBatch
    launch: L
    workspace: Workspace


class _Splits:
    """What launches that share a sequence's tokens among programs need of a device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.multiprocessors = 1  # without a GPU Triton's interpreter runs the kernels, for tests
        if device.type == "cuda":
            self.multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
        self._workspace: Workspace | None = None

    def workspace(self, splits: int, tokens: int, blocks: int, heads: int, width: int) -> Workspace:
        """One workspace for all steps, which follow each other on one stream.

        The metadata of a graph keeps the workspace that the graph was captured with.
        """
        sizes = (splits, tokens, blocks, heads, width)
        if self._workspace is None or not self._workspace.holds(*sizes):
            self._workspace = Workspace.make(*sizes, self._device)
        return self._workspace


class TritonPaged(PagedAttention[TritonMetadata[PagedLaunch]]):
    name = "triton"

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__(spec)
        self._splits = _Splits(spec.device)

    def plan(self, batch: PagedBatch) -> TritonMetadata[PagedLaunch]:
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
            self._splits.multiprocessors,
            spec.kv_dtype == FLOAT8 and group == 1,
        )
        blocks = sequences * q_blocks
        workspace = self._splits.workspace(
            launch.splits, batch.num_tokens, blocks, spec.num_heads, spec.head_dim
        )
        return TritonMetadata(batch, launch, workspace)

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: TritonMetadata[PagedLaunch],
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


class TritonLatent(PagedAttention[TritonMetadata[LatentLaunch[Tile]]]):
    """Attention to hidden states, which are keys and values at once: by a kernel in CUDA C++ where
    one takes them, elsewhere by Triton's."""

    name = "triton"

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__(spec)
        self._splits = _Splits(spec.device)
        self._tile_of: Callable[[int, int, int], Tile] = TritonTile.of
        self._attend: Callable[..., torch.Tensor] = latent_attention.latent_attention
        states = (spec.head_dim, spec.dtype, spec.kv_dtype)
        assert spec.page_size is not None
        if latent_wgmma.takes(*states, spec.page_size, spec.device):
            self._tile_of, self._attend = WgmmaTile.of, latent_wgmma.latent_attention
            latent_wgmma.compile_all(spec.num_heads, spec.head_dim, spec.page_size, spec.dtype)
        elif latent_mma.takes(*states, spec.device):
            self._tile_of, self._attend = MmaTile.of, latent_mma.latent_attention
            stored = spec.kv_dtype or spec.dtype
            latent_mma.compile_all(
                spec.num_heads, spec.head_dim, spec.page_size, spec.dtype, stored
            )

    def plan(self, batch: PagedBatch) -> TritonMetadata[LatentLaunch[Tile]]:
        spec, sequences = self.spec, len(batch.query_lens)
        rows = batch.max_query_len * spec.num_heads
        tile = self._tile_of(rows, spec.head_dim, (spec.kv_dtype or spec.dtype).itemsize)
        launch = LatentLaunch.choose(
            tile, sequences, rows, batch.max_kv_len, self._splits.multiprocessors
        )
        # Of one head of rows: programs take all of them. Graphs keep the workspaces that they were
        # captured with: a few sizes, powers of two.
        tokens, blocks = batch.num_tokens * spec.num_heads, sequences * tile.blocks(rows)
        workspace = self._splits.workspace(
            launch.splits, next_power_of_2(tokens), next_power_of_2(blocks), 1, tile.features
        )
        return TritonMetadata(batch, launch, workspace)

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: TritonMetadata[LatentLaunch[Tile]],
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        assert k is v or k.data_ptr() == v.data_ptr(), "hidden states are keys and values at once"
        batch = metadata.batch
        return self._attend(
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
