"""Runs an encoder: a batch of raw inputs in, packed hidden states out.

On a GPU it queues the work and does not wait for it. Of a replica of several ranks, each has a
runner; all of them run the same batches in one order.
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
from antiphon.config.errors import describe
from antiphon.config.options import EngineConfig
from antiphon.encoder import frontends
from antiphon.encoder.batch_shares import gather, shares
from antiphon.encoder.frontends.interface import EncoderBatch, GraphShape
from antiphon.encoder.graphs import EncoderGraphs, NoGraph, capture_graphs
from antiphon.encoder.models import build
from antiphon.encoder.models.interface import EncoderModel, Layout
from antiphon.encoder.rank_commands import EncodeBatch, Followers, no_followers
from antiphon.encoder.stage import Stage
from antiphon.families.checkpoint import ModelConfig
from antiphon.layers.finite import check_output
from antiphon.layers.opening import build_to_fill, kept_small, open_checkpoint
from antiphon.layers.prepare import prepare_encoder
from antiphon.layers.quantization.quantize import check_quantization
from antiphon.layers.random_weights import build_randomly
from antiphon.layers.shard import Part
from antiphon.layers.weights import check_unused, load_part
from antiphon.runtime.device import Target
from antiphon.runtime.ranks import RankError, Ranks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """`hidden` [sum of lengths, hidden] of a batch, packed in the order of its inputs.

    Where ranks exchange nothing (`Ranks.beside`), only this rank's share, and `shares` says how
    many tokens each rank has.
    """

    lengths: list[int]
    hidden: torch.Tensor
    shares: tuple[int, ...] = ()


class EncoderRunner:
    """Holds one rank's part of the encoder half of a checkpoint.

    The ranks of a stage share its layers' weights or, in mode "data", the inputs of each batch.
    The leader has the hidden states: the first rank of the last stage.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: EngineConfig,
        ranks: Ranks | None = None,
        followers: Followers = no_followers,
    ) -> None:
        """Of a model that has one. `followers`: sends the leader's batches to all other ranks.
        Raises CheckpointError, ConfigurationError or AttentionBackendError."""
        half, options = model.encoder, config.encoder
        assert half is not None
        self.target = Target.resolve(config.model, model.raw, model.family)
        check_quantization(config.model.quantization, self.target)
        self.ranks = (ranks or Ranks.alone()).pausable()
        self._followers = followers
        self._shares_inputs = self.ranks.parallel.mode == "data"
        self._most_tokens = options.max_encoder_batch_tokens
        self._part = self._part_of(half.num_layers)
        spec = encoder_spec(half, self.target, self._part.shard, options)
        self.attention = select_full("encoder", options.attention_backend, spec)
        self._stage = Stage(self._part, self.ranks.stages)
        self._hidden_size, self._output_size = half.hidden_size, half.output_size
        self._folder = model.path
        self.model = self._load(model, config)
        self.frontend = frontends.build(model, self.model, self.target, config)
        self.graphs: EncoderGraphs[Any, Any] | NoGraph = NoGraph("enforce_eager is set")
        if not config.model.enforce_eager:
            self.graphs = capture_graphs(
                self.frontend,
                self.model,
                self.attention,
                half,
                options.max_encoder_batch_tokens,
                self._stage,
                self.ranks,
            )
        if isinstance(self.graphs, NoGraph) and self.target.device.type == "cuda":
            logger.info("encoder batches run without CUDA graphs: %s", self.graphs.reason)
        self.warm_up()

    @property
    def part_layers(self) -> int:
        """How many layers are here."""
        return len(self._part.layers)

    @property
    def batch_tokens(self) -> int:
        """Encoder tokens of a batch, at most. Of images of any sizes, as many as a graph holds:
        more are encoded no faster, and launching them would take the host from the decoder."""
        rows = self.graphs.most_rows if isinstance(self.graphs, EncoderGraphs) else None
        if rows is None:
            return self._most_tokens
        sharing = self.ranks.tensor.size if self._shares_inputs else 1
        return min(self._most_tokens, rows * sharing)

    def _part_of(self, num_layers: int) -> Part:
        part = Part.of(self.ranks, num_layers)
        return Part(part.layers, num_layers) if self._shares_inputs else part

    def _load(self, model: ModelConfig, config: EngineConfig) -> EncoderModel:
        half, part = model.encoder, self._part
        assert half is not None
        if config.model.load_format == "dummy":
            encoder = build_randomly(
                self.target,
                lambda: build(half, part),
                kept_small(model, config.model),
                lambda path: half.checkpoint_names(part.whole_path(path)),
            )
        else:
            checkpoint = open_checkpoint(model, config.model)
            encoder = build_to_fill(self.target, checkpoint, lambda: build(half, part))
            load_part(encoder, checkpoint, half.checkpoint_names, part, lambda: build(half))
            checkpoint.claimed.update(filter(half.skips, checkpoint.files))
            check_unused(checkpoint, "encoder", model.family)
        prepare_encoder(encoder, config.model.quantization, self.target, half.pre_norm)
        return encoder

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Runs small batches: no request shall wait for what is loaded or compiled at first use.
        Raises CheckpointError if the hidden states are not finite."""
        for batch in self.frontend.warm_up_batches():
            check_output(self.run(batch), "encoder", self._folder)
        tensor = self.ranks.tensor
        is_gathered = self._shares_inputs and self.ranks.exchanges and self._stage.is_last
        if is_gathered and tensor.size > 1:
            device, dtype = self.target.device, self.target.dtype
            one = torch.zeros(1, self._output_size, dtype=dtype, device=device)
            gather(one, [1] * tensor.size, tensor)  # NCCL connects two ranks at their first send

    @torch.inference_mode()
    def encode(self, inputs: Sequence[np.ndarray]) -> Encoded:
        """One packed forward of all `inputs`.

        Texts are int token ids [tokens]; clips are float32 samples [samples], at most one window;
        images are packed `Pixels`.
        Raises ValueError for ids outside the vocabulary and, once other ranks have heard of the
        batch, RankError for whatever fails. On ranks other than the leader, the hidden states are
        those that this rank has.
        """
        lengths = self.frontend.lengths(inputs)
        if self.ranks.is_alone:
            return Encoded(lengths.tolist(), self.run(self.frontend.pack(inputs)))
        if self.ranks.is_leader:
            self._followers(EncodeBatch(tuple(inputs)))
        try:
            return self._run_together(inputs, lengths)
        except Exception as error:
            raise RankError(f"an encoder batch failed: {describe(error)}") from error

    @torch.inference_mode()
    def pool(self, encoded: Encoded) -> torch.Tensor:
        """One embedding of each input of a batch [inputs, pooled size]. Raises ValueError for a
        model without pooling."""
        return self.model.pool(encoded.hidden, encoded.lengths)

    def _run_together(self, inputs: Sequence[np.ndarray], lengths: np.ndarray) -> Encoded:
        """As `run`, with the other ranks of the replica."""
        if not self._shares_inputs:
            return Encoded(lengths.tolist(), self.run(self.frontend.pack(inputs)))
        spans = shares(lengths, self.ranks.tensor.size)
        tokens = [int(lengths[span.slice].sum()) for span in spans]
        own = inputs[spans[self.ranks.tensor.rank].slice]
        if own:
            hidden = self.run(self.frontend.pack(own))
        else:
            device, dtype = self.target.device, self.target.dtype
            hidden = torch.empty(0, self._output_size, dtype=dtype, device=device)
        if not self.ranks.exchanges:
            return Encoded(lengths.tolist(), hidden, tuple(tokens))
        if self._stage.is_last:
            hidden = gather(hidden, tokens, self.ranks.tensor)
        return Encoded(lengths.tolist(), hidden)

    @torch.inference_mode()
    def run(self, batch: EncoderBatch) -> torch.Tensor:
        """Of a batch that `frontend` has packed, for this rank alone: hidden states [rows, output
        size] of the last part; what the layers of another make of the stream [tokens, hidden]."""
        shape = self.choose_graph(batch)
        if not isinstance(shape, NoGraph) and isinstance(self.graphs, EncoderGraphs):
            written = self.graphs.replay(shape, batch)
        else:
            written = self._compute(batch)
        return self.frontend.assembled(batch, written) if self._stage.is_last else written

    def _compute(self, batch: EncoderBatch) -> torch.Tensor:
        layout = self.frontend.layout(batch)
        plans = {
            name: self.attention.plan(FullBatch.of(lengths, self.target.device))
            for name, lengths in layout.lengths.items()
        }
        entering = self._entering(batch, layout)
        hidden: torch.Tensor = self.model(entering, self.attention, plans, layout)
        self._stage.pass_on(hidden)
        return hidden

    def _entering(self, batch: EncoderBatch, layout: Layout) -> torch.Tensor:
        """What the layers of this part read, [sum of lengths, hidden]."""
        if self._stage.is_first:
            return self.frontend.embed(batch, layout)
        shape = (int(batch.lengths.sum()), self._hidden_size)
        device, dtype = self.target.device, self.target.dtype
        return self._stage.receive(torch.empty(shape, dtype=dtype, device=device))

    def choose_graph(self, batch: EncoderBatch) -> GraphShape | NoGraph:
        """The shape of the graph that `batch` runs in, or why it runs without one."""
        return self.graphs if isinstance(self.graphs, NoGraph) else self.graphs.choose(batch)
