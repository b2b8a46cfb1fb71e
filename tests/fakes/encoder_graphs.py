"""Encoder runners on a CPU, with what stands in for their CUDA graphs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from rerun_capture import Rerun
from torch.nn import functional as F

from antiphon.attention.interface import FullAttention, FullBatch
from antiphon.config.options import resolve
from antiphon.encoder import graphs
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.layers.positions import RelativeBias
from antiphon.runtime import graphs as runtime_graphs


class Masked(FullAttention[torch.Tensor]):
    """Over all tokens of a batch; `metadata` [tokens, tokens] says who sees whom."""

    name = "masked"

    def plan(self, batch: Any) -> torch.Tensor:
        raise NotImplementedError

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: torch.Tensor,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, metadata, scale=self.spec.scale)
        return out.transpose(0, 1)


class ReadsLengths(Masked):
    """As kernels that graphs hold for sequences of any lengths: reads them when it runs."""

    name = "reads lengths"

    def plan(self, batch: FullBatch) -> torch.Tensor:
        return batch.cu_seqlens

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: torch.Tensor,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        owners = torch.searchsorted(metadata[1:], torch.arange(len(q)), right=True)
        return super().run(q, k, v, owners[:, None] == owners)


def with_graphs(
    model: ModelConfig,
    runner: EncoderRunner,
    attention: FullAttention[object],
    max_batch_tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gives `runner` the graphs that it would have on a GPU."""
    monkeypatch.setattr(runtime_graphs, "GraphCapture", Rerun)
    monkeypatch.setattr(graphs, "uncapturable", lambda attention, lengths: None)
    runner.graphs = graphs.capture_graphs(
        runner.frontend,
        runner.model,
        attention,
        model.encoder,
        max_batch_tokens,
        runner._stage,
        runner.ranks,
    )


def load(folder: Path, **options: Any) -> tuple[ModelConfig, EncoderRunner]:
    config = resolve(str(folder), {"device": "cpu", **options})
    model = ModelConfig.load(config.model)
    return model, EncoderRunner(model, config)
