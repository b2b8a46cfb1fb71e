"""Runs an encoder: a batch of raw inputs in, packed hidden states out.

On a GPU it queues the work and does not wait for it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from antiphon.attention.interface import FullBatch
from antiphon.attention.selection import select_full
from antiphon.attention.specs import encoder_spec
from antiphon.config.options import EngineConfig
from antiphon.encoder import frontends
from antiphon.encoder.frontends.interface import EncoderBatch, GraphShape
from antiphon.encoder.graphs import EncoderGraphs, NoGraph, capture_graphs
from antiphon.encoder.models import build
from antiphon.encoder.models.interface import EncoderModel
from antiphon.families.checkpoint import ModelConfig
from antiphon.layers.finite import check_output
from antiphon.layers.prepare import prepare_encoder
from antiphon.layers.quantization.quantize import check_quantization
from antiphon.layers.weights import Checkpoint, check_unused, fill_randomly, load_weights
from antiphon.runtime.device import Target

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """`hidden` [sum of lengths, hidden] of a batch, packed in the order of its inputs."""

    lengths: list[int]
    hidden: torch.Tensor


class EncoderRunner:
    """Holds the encoder half of a checkpoint."""

    def __init__(self, model: ModelConfig, config: EngineConfig) -> None:
        """Of a model that has one. Raises CheckpointError, ConfigurationError or
        AttentionBackendError."""
        half, options = model.encoder, config.encoder
        assert half is not None
        self.target = Target.resolve(config.model, model.raw, model.family)
        check_quantization(config.model.quantization, self.target)
        self.attention = select_full(
            "encoder", options.attention_backend, encoder_spec(half, self.target)
        )
        self._folder = model.path
        self.model = self._load(model, config)
        self.frontend = frontends.build(model, self.model, self.target, options)
        self.graphs: EncoderGraphs[Any, Any] | NoGraph = NoGraph("enforce_eager is set")
        if not config.model.enforce_eager:
            self.graphs = capture_graphs(
                self.frontend,
                self.model,
                self.attention,
                half.hidden_size,
                options.max_encoder_batch_tokens,
            )
        if isinstance(self.graphs, NoGraph) and self.target.device.type == "cuda":
            logger.info("encoder batches run without CUDA graphs: %s", self.graphs.reason)
        self.warm_up()

    def _load(self, model: ModelConfig, config: EngineConfig) -> EncoderModel:
        half = model.encoder
        assert half is not None
        encoder = self.target.build(lambda: build(half))
        if config.model.load_format == "dummy":
            fill_randomly(encoder)
        else:
            checkpoint = Checkpoint(model.path)
            load_weights(encoder, checkpoint, half.checkpoint_names)
            check_unused(checkpoint, "encoder", model.family.ignored)
        prepare_encoder(encoder, config.model.quantization, self.target, half.pre_norm)
        return encoder

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Runs small batches: no request shall wait for what is loaded or compiled at first use.
        Raises CheckpointError if the hidden states are not finite."""
        for batch in self.frontend.warm_up_batches():
            check_output(self._run(batch), "encoder", self._folder)

    @torch.inference_mode()
    def encode(self, inputs: Sequence[np.ndarray]) -> Encoded:
        """One packed forward of all `inputs`.

        Texts are int token ids [tokens]; clips are float32 samples [samples], at most one window.
        Raises ValueError for ids outside the vocabulary.
        """
        batch = self.frontend.pack(inputs)
        return Encoded(batch.lengths.tolist(), self._run(batch))

    def _run(self, batch: EncoderBatch) -> torch.Tensor:
        """Hidden states [sum of lengths, hidden]."""
        shape = self.choose_graph(batch)
        if not isinstance(shape, NoGraph) and isinstance(self.graphs, EncoderGraphs):
            return self.graphs.replay(shape, batch)
        plans = {
            name: self.attention.plan(FullBatch.of(lengths, self.target.device))
            for name, lengths in self.model.lengths(batch.lengths).items()
        }
        hidden: torch.Tensor = self.model(self.frontend.embed(batch), self.attention, plans)
        return hidden

    def choose_graph(self, batch: EncoderBatch) -> GraphShape | NoGraph:
        """The shape of the graph that `batch` runs in, or why it runs without one."""
        return self.graphs if isinstance(self.graphs, NoGraph) else self.graphs.choose(batch)
