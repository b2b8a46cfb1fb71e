"""CUDA graphs of an encoder, one for each shape that its frontend pads batches to."""

from dataclasses import dataclass
from functools import partial
from typing import Generic

import torch

from antiphon.attention.interface import FullAttention
from antiphon.attention.selection import uncapturable
from antiphon.encoder.frontends.interface import B, Frontend, GraphInputs, S
from antiphon.encoder.models.interface import EncoderModel
from antiphon.encoder.stage import Stage
from antiphon.families.halves import Half
from antiphon.runtime.graphs import GraphSet, Work
from antiphon.runtime.ranks import Ranks


@dataclass(frozen=True)
class NoGraph:
    """A batch, or every batch, runs without a CUDA graph."""

    reason: str


class EncoderGraphs(Generic[B, S]):
    def __init__(
        self,
        inputs: GraphInputs[B, S],
        model: EncoderModel,
        attention: FullAttention[object],
        half: Half,
        stage: Stage,
        ranks: Ranks,
    ) -> None:
        """Captures them all. Those of a later stage read what the one before has written."""
        self._inputs, self._stage = inputs, stage
        self.most_rows = inputs.most_rows
        largest, spec = inputs.shapes[0], attention.spec
        zeros = partial(torch.zeros, dtype=spec.dtype, device=spec.device)
        self._entering = zeros(0 if stage.is_first else largest.tokens, half.hidden_size)
        width = half.output_size if stage.is_last else half.hidden_size
        self._written = zeros(self._rows(largest), width)

        def embed(shape: S) -> torch.Tensor:
            return inputs.embed(shape) if stage.is_first else self._entering[: shape.tokens]

        def forward(shape: S) -> tuple[object, Work]:
            batches, rows = inputs.attention_batches(shape), self._written[: self._rows(shape)]
            plans = {name: attention.plan(batch) for name, batch in batches.items()}

            def work() -> torch.Tensor:
                return rows.copy_(model(embed(shape), attention, plans, inputs.layout(shape)))

            return plans, work

        self._graphs = GraphSet(
            "encoder", spec.device, model, inputs.shapes, forward, ranks, model.typical_layers
        )
        self.report = self._graphs.report

    def choose(self, batch: B) -> S | NoGraph:
        """The shape whose graph holds `batch`, or why none does."""
        shape = self._inputs.choose(batch)
        return NoGraph(shape) if isinstance(shape, str) else shape

    def replay(self, shape: S, batch: B) -> torch.Tensor:
        """What the layers give for `batch`: a copy of its rows [rows, output size] behind the
        last one; otherwise the stream itself [tokens of the shape, hidden size]."""
        self._inputs.fill(shape, batch)
        if not self._stage.is_first:
            self._stage.receive(self._entering[: shape.tokens])
        self._graphs.replay(shape)
        written = self._written[: self._rows(shape)]
        self._stage.pass_on(written)
        return written[: self._inputs.rows_of(batch)].clone() if self._stage.is_last else written

    def _rows(self, shape: S) -> int:
        """That the graph of `shape` writes."""
        return shape.rows if self._stage.is_last else shape.tokens


@torch.inference_mode()
def capture_graphs(
    frontend: Frontend[B, S],
    model: EncoderModel,
    attention: FullAttention[object],
    half: Half,
    max_batch_tokens: int,
    stage: Stage,
    ranks: Ranks,
) -> EncoderGraphs[B, S] | NoGraph:
    """Graphs for batches of up to `max_batch_tokens`, if the attention backends of all `ranks`
    allow them. All capture the same ones."""
    spec, reason = attention.spec, uncapturable(attention, frontend.graph_lengths)
    if spec.device.type == "cuda":  # a CPU needs no agreement
        reason = ranks.reason_of_any(reason, spec.device)
    if reason is not None:
        return NoGraph(reason)
    inputs = frontend.graph_inputs(max_batch_tokens)
    if isinstance(inputs, str):  # the same on every rank
        return NoGraph(inputs)
    return EncoderGraphs(inputs, model, attention, half, stage, ranks)
