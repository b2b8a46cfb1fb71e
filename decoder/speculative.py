"""The draft model: a smaller decoder of the same encoder, which drafts a few tokens.

Its layers are further layers of the decoder's pool, behind the decoder's own: a page
holds keys and values of both, under one page id. Its cross KV comes from the same
hidden states; its self KV is written when it drafts. It chooses drafts under each
request's own rules and random numbers and puts them into `Slots.tokens`, where the
decoder verifies them.
"""

import numpy as np
import torch

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import EngineConfig
from antiphon.decoder.graphs import NO_SHAPES, DecoderGraphs, short_step_shapes
from antiphon.decoder.loading import load_decoder
from antiphon.decoder.models.interface import DecoderStep
from antiphon.decoder.page_tables import PageTables
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.sampling.settings import GRAPH_FEATURES, SamplingFeatures
from antiphon.decoder.step_attention import PlannedAttentions, StepAttention
from antiphon.decoder.step_buffers import make_draft_inputs
from antiphon.decoder.step_outputs import OutputSizes, StepOutputs
from antiphon.decoder.step_tensors import StepInputs
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.pool import KVPool
from antiphon.layers.checkpoint import Checkpoint
from antiphon.layers.shard import Part
from antiphon.runtime.device import Target
from antiphon.runtime.ranks import Ranks
from antiphon.scheduler.plan import NO_NEW_PAGES, StepPlan


class DraftModel:
    """Of one rank. All ranks make the same calls.

    `pool`: that of the decoder; the draft model has its last layers. `sampler` and
    `tables` are the decoder's as well.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: EngineConfig,
        target: Target,
        ranks: Ranks,
        sampler: Sampler,
        tables: PageTables,
        pool: KVPool,
    ) -> None:
        """Loads it. Raises CheckpointError for weights that do not fit."""
        self._part = Part.of(ranks, model.decoder.num_layers)
        self.attention = StepAttention.select(
            model.decoder, target, config.decoder, self._part.shard
        )
        kv_dtype = self.attention.causal.spec.kv_dtype
        factor = None if pool.states is None else pool.states.factor
        self.model = load_decoder(model, config, target, kv_dtype, self._part, factor)
        self.pool = pool.last_layers(model.decoder.num_layers)
        self.sampler, self.slots = sampler, sampler.slots
        self.inputs = make_draft_inputs(config, self.slots, self.pool, tables)
        most = self.inputs.limits.sequences
        self.outputs = StepOutputs(self.model, sampler, OutputSizes(most, 0))
        self._lengths = model.max_decoder_len, model.max_cross_len
        self._ranks = ranks
        self.graphs: DecoderGraphs | None = None

    @torch.inference_mode()
    def capture(self) -> None:
        """Captures graphs for its passes."""
        shapes = short_step_shapes(self.inputs.limits.sequences, *self._lengths)
        self.graphs = DecoderGraphs(
            self._run, self.attention.plan, self.attention.replan, self.inputs, shapes, self.model,
            self._ranks,
        )  # fmt: skip

    def propose(self, plan: StepPlan) -> None:
        """Queues the passes that draft `plan`'s tokens into `Slots.tokens`: one for
        each of a row's drafts. The first pass also reads known tokens not read
        before."""
        drafts = plan.drafts
        assert drafts is not None
        for number in range(drafts.most):
            rows = np.flatnonzero(drafts.counts > number)
            query_lens = drafts.lags[rows] if number == 0 else np.ones(len(rows), np.int64)
            rows = rows[np.argsort(query_lens > 1, kind="stable")]
            self._launch(self._pass(plan, rows, number))

    def _pass(self, plan: StepPlan, rows: np.ndarray, number: int) -> StepPlan:
        """The one that drafts token `number` of `rows` [n] of `plan`."""
        assert plan.drafts is not None
        ones = np.ones(len(rows), np.int64)
        new_pages = plan.new_pages.of(plan.slots[rows]) if number == 0 else NO_NEW_PAGES
        return StepPlan(
            [], [], plan.slots[rows], plan.ids[rows],
            plan.drafts.lags[rows] if number == 0 else ones,
            plan.known_lens[rows] + number, ones > 0, new_pages,
        )  # fmt: skip

    def _launch(self, plan: StepPlan) -> None:
        shape = (NO_SHAPES if self.graphs is None else self.graphs.shapes).choose(plan).shape
        inputs = self.inputs.fill(plan, shape or self.inputs.shape_of(plan))
        if shape is not None and self.graphs is not None:
            self.graphs.replay(inputs)
        else:
            features = self.sampler.features(plan.slots)
            self._run(inputs, self.attention.plan(inputs), features)
        self.outputs.finish(plan, inputs.shape)

    def _run(
        self,
        inputs: StepInputs,
        attentions: PlannedAttentions,
        features: SamplingFeatures = GRAPH_FEATURES,
    ) -> None:
        """What graphs hold."""
        self.inputs.lay_out(inputs)
        tensors = inputs.tensors
        positions = self.slots.positions_of(tensors.token_slots, tensors.positions)
        step = DecoderStep(self.pool, tensors.slot_mapping, *attentions)
        hidden = self.model(self.model.embed(tensors.token_ids, positions), positions, step)
        self.outputs.compute(inputs, hidden, features)


def check_same_encoder(model: ModelConfig, config: EngineConfig) -> None:
    """Raises ConfigurationError if the draft model was made for another encoder, whose
    hidden states it needs. Compares all tensors, which takes about as long as reading
    them, unless `speculative_same_encoder` says that they are equal."""
    draft, options = model.draft, config.speculation
    if draft is None or options.speculative_same_encoder or config.model.load_format == "dummy":
        return
    own, other = Checkpoint(model.path), Checkpoint(draft.path)
    for name in own.files:
        if not model.family.is_of_encoder(name):
            continue
        if name not in other or not _equal(own.tensor(name), other.tensor(name)):
            raise ConfigurationError(
                f"speculative_model={options.speculative_model!r} has another encoder than "
                f"{config.model.model}: {name} differs. Give a draft model that was made with this "
                "encoder, or speculative_method='ngram'; if the difference does not matter, "
                "speculative_same_encoder=True"
            )


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Up to the rounding of the narrower type."""
    if one.shape != other.shape:
        return False
    dtype = min((one.dtype, other.dtype), key=lambda dtype: dtype.itemsize)
    return torch.equal(one.to(dtype), other.to(dtype))
