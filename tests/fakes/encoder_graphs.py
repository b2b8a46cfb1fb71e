"""Encoder runners on a CPU, with what stands in for their CUDA graphs."""

from pathlib import Path
from typing import Any

import pytest
from rerun_capture import Rerun

from antiphon.attention.interface import FullAttention
from antiphon.config.options import resolve
from antiphon.encoder import graphs
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime import graphs as runtime_graphs


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
        model.encoder.hidden_size,
        max_batch_tokens,
        runner._stage,
        runner.ranks,
    )


def load(folder: Path, **options: Any) -> tuple[ModelConfig, EncoderRunner]:
    config = resolve(str(folder), {"device": "cpu", **options})
    model = ModelConfig.load(config.model)
    return model, EncoderRunner(model, config)
