"""Our own kernels, written in Triton: every kind, any head size, T5's bias and float8 keys and values."""

from dataclasses import dataclass

import torch

from antiphon.attention.interface import AttentionBackend, AttentionSpec, FullBatch, PagedBatch
from antiphon.kernels.formats import FLOAT8
from antiphon.kernels.full_attention import full_attention
from antiphon.kernels.paged_attention import BLOCK_M, Workspace, paged_attention
from antiphon.kernels.paged_launch import PagedLaunch
from antiphon.layers.positions import RelativeBias


@dataclass(frozen=True)
class PagedPlan:
    batch: PagedBatch
    launch: PagedLaunch
    workspace: Workspace


class TritonAttention(AttentionBackend):
    name = "triton"

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__(spec)
        on_gpu = (
            spec.device.type == "cuda"
        )  # elsewhere Triton's interpreter runs the kernels, for tests
        self._multiprocessors = (
            torch.cuda.get_device_properties(spec.device).multi_processor_count if on_gpu else 1
        )
        self._workspace: Workspace | None = None

    def plan(self, batch: FullBatch | PagedBatch) -> FullBatch | PagedPlan:
        if isinstance(batch, FullBatch):
            return batch
        sequences, q_blocks = len(batch.query_lens), -(-batch.max_query_len // BLOCK_M)
        spec = self.spec
        shape = (spec.kind, sequences, q_blocks, spec.num_heads, spec.head_dim, batch.max_kv_len)
        launch = PagedLaunch.choose(*shape, self._multiprocessors, spec.kv_dtype == FLOAT8)
        return PagedPlan(
            batch, launch, self._room(launch.splits, batch.num_tokens, sequences * q_blocks)
        )

    def _room(self, splits: int, tokens: int, blocks: int) -> Workspace:
        """One workspace for all plans: steps follow each other on one stream. A graph's plan keeps the one it was captured with."""
        spec = self.spec
        if self._workspace is None or not self._workspace.holds(
            splits, tokens, blocks, spec.num_heads, spec.head_dim
        ):
            self._workspace = Workspace.make(
                splits, tokens, blocks, spec.num_heads, spec.head_dim, spec.device
            )
        return self._workspace

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        plan: FullBatch | PagedPlan,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        if isinstance(plan, FullBatch):
            return full_attention(
                q,
                k,
                v,
                plan.starts,
                plan.max_len,
                self.spec.scale,
                None if bias is None else bias.tiles,
            )
        batch = plan.batch
        return paged_attention(
            q, k, v, batch.query_starts_on_device, batch.kv_lens_on_device, batch.page_table_on_device, plan.launch, plan.workspace,
            max_query_len=batch.max_query_len, scale=self.spec.scale, causal=self.spec.kind == "causal",
            bias=None if bias is None else bias.table(),
        )  # fmt: skip
