"""Runs a decoder: a step plan in, sampled tokens out. Nothing here schedules.

On a GPU `launch` queues a step, and `LaunchedStep.result` waits for its tokens. They
also stay on the device, so the next step can be launched before the host has them.
"""

import logging
from collections import Counter

import numpy as np
import torch

from antiphon.attention.selection import uncapturable
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.decoder.alignment import Aligner
from antiphon.decoder.cross_kv import CrossKV, cross_write_sizes
from antiphon.decoder.embeddings import PromptStates
from antiphon.decoder.graphs import (
    LONG_PROMPT_TOKENS,
    NO_SHAPES,
    DecoderGraphs,
    GraphChoice,
    draft_shapes,
    step_shapes,
)
from antiphon.decoder.launched_step import LaunchedStep
from antiphon.decoder.loading import load_decoder
from antiphon.decoder.models.interface import DecoderStep
from antiphon.decoder.room import check_room, make_arena, make_pool
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.sampling.settings import GRAPH_FEATURES, SamplingFeatures
from antiphon.decoder.speculative import DraftModel, check_same_encoder
from antiphon.decoder.stage_links import StageLinks
from antiphon.decoder.state import Slots
from antiphon.decoder.step_attention import PlannedAttentions, StepAttention
from antiphon.decoder.step_buffers import make_inputs, make_tables, most_drafting, output_sizes
from antiphon.decoder.step_outputs import FinishedStep, StepOutputs
from antiphon.decoder.step_tensors import GRAPH_READOUTS, StepInputs
from antiphon.decoder.warm_up import KEY, ScratchSequence
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.draft import with_draft
from antiphon.kv.handoff import HiddenStates
from antiphon.layers.finite import check_output
from antiphon.layers.quantization.quantize import check_quantization
from antiphon.layers.shard import Part
from antiphon.runtime.device import Target, probe
from antiphon.runtime.ranks import Ranks
from antiphon.scheduler.plan import StepPlan

logger = logging.getLogger(__name__)


class DecoderRunner:
    """A checkpoint's decoder, its KV pool, and the device's state of running sequences.

    `eager_steps` counts, by reason, the steps outside CUDA graphs, if there are graphs.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: EngineConfig,
        timestamps: TimestampRules | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Loads the decoder, allocates its KV pool, captures graphs and warms up.

        `timestamps`: Whisper's rules. `ranks`: those that run the same plans in the
        same order, and are constructed at once. Raises ConfigurationError,
        AttentionBackendError or CheckpointError for what cannot run here, if possible
        before reading weights.
        """
        model = with_draft(model, config)
        self.model_config, self.config = model, config
        self.ranks = (ranks or Ranks.alone()).pausable()
        self.part = Part.of(self.ranks, model.decoder.num_layers)
        # What runs where is decided before weights are read.
        self.target = Target.resolve(config.model, model.raw, model.family)
        self.device = self.target.device
        check_room(model, config, self.part)
        check_quantization(config.model.quantization, self.target)
        check_same_encoder(model, config)
        self.attention = StepAttention.select(
            model.decoder, self.target, config.decoder, self.part.shard
        )
        self.causal, self.cross = self.attention.causal, self.attention.cross
        # Weights.
        kv_dtype = self.causal.spec.kv_dtype
        self.model = load_decoder(model, config, self.target, kv_dtype, self.part)
        # State of running sequences. The pool comes last: it takes a share of what is
        # left.
        self.slots = self._make_slots()
        sizes = output_sizes(config)
        self.sampler = Sampler(self.slots, timestamps, self.part.shard, sizes.samples)
        self.outputs = StepOutputs(self.model, self.sampler, sizes, self.part.is_last)
        self.arena = make_arena(model, config.scheduler, self.target)
        pool_options = (model, config, self.target, kv_dtype, self.part, self.ranks)
        self.pool = make_pool(*pool_options, self.model.state_factor)
        # What a step needs.
        self.tables = make_tables(model, self.slots, self.pool)
        lanes = self.ranks.parallel.pipeline
        self.inputs = make_inputs(config, self.slots, self.pool, self.tables, lanes)
        self.prompt_states = PromptStates(self.arena, self.inputs.limits.tokens)
        size = (self.inputs.limits.tokens, model.decoder.hidden_size)
        self.links = StageLinks(self.ranks, self.part, self.slots, size, self.target.dtype)
        self.draft = self._load_draft()
        self.graphs = self._capture_steps()
        self.cross_kv = self._make_cross_kv()
        self.aligner = Aligner.of(model, config, self.model, self.pool, self.tables, self.ranks)
        self.eager_steps: Counter[str] = Counter()
        self.warm_up()
        self.eager_steps.clear()

    def warm_up(self) -> None:
        """Runs every rule of sampling and both kinds of steps once, so that the first
        request finds all loaded, compiled and allocated. Raises CheckpointError if the
        logits are not finite."""
        sequence = ScratchSequence(
            self.slots.scratch,
            self.pool.scratch_page,
            self.model_config.max_decoder_len,
            None if self.cross is None else self.pool.cross_scratch_page,
        )
        states = torch.zeros_like(self.arena.states[:1])
        for plan in sequence.plans(self.sampler.timestamps):
            if plan.cross_writes:
                self.arena.put(HiddenStates((KEY,), (1,), states))
            self.launch(plan).result()
        self.arena.drop(KEY)
        self.pool.warm_up()
        if most_drafting(self.config):
            drafts = self.config.speculation.num_speculative_tokens
            self.launch(sequence.drafting(drafts, self.draft is None)).result()
        if self.aligner is not None:
            self.aligner.warm_up(self.slots.scratch)
        if self.part.is_last:
            check_output(self.outputs.logits[:1], "decoder", self.model_config.path)

    def probe(self) -> None:
        """Raises if the device cannot go on after an error."""
        probe(self.device)

    @property
    def overlap(self) -> bool:
        """True if a step can be launched while the one before it runs."""
        return self.device.type == "cuda"

    @property
    def prompt_room(self) -> int | None:
        """Of the largest step with a graph, beyond a token a prompt; None: no
        graphs."""
        return None if self.graphs is None else LONG_PROMPT_TOKENS - 1

    # ------------------------------------------------------------------ construction

    def _make_slots(self) -> Slots:
        half = self.model_config.decoder
        return Slots(
            self.config.scheduler.max_num_seqs,
            self.model_config.max_decoder_len,
            half.vocab_size,
            self.device,
            half.padding_id,
            self.part.shard.vocabulary(half.vocab_size),
            half.position_axes,
            half.num_embedded,
        )

    def _load_draft(self) -> DraftModel | None:
        if self.model_config.draft is None:
            return None
        return DraftModel(
            self.model_config.draft, self.config, self.target, self.ranks, self.sampler,
            self.tables, self.pool,
        )  # fmt: skip

    @property
    def _uses_graphs(self) -> bool:
        return self.device.type == "cuda" and not self.config.model.enforce_eager

    @torch.inference_mode()
    def _capture_steps(self) -> DecoderGraphs | None:
        """Graphs of all shapes; None on a CPU, with `enforce_eager`, or where the
        attention backend cannot be captured."""
        if not self._uses_graphs:
            return None
        if reason := self.ranks.reason_of_any(uncapturable(self.causal), self.device):
            logger.warning("decoder steps run without CUDA graphs: %s", reason)
            return None
        model, max_seqs = self.model_config, self.config.scheduler.max_num_seqs
        # Every window of Whisper asks for the probability that nobody speaks in it.
        readouts = GRAPH_READOUTS if model.has_equal_windows else 0
        lengths = model.max_decoder_len, model.max_cross_len
        in_prompts = self.cross is None and len(self.arena.states) > 0
        shapes = step_shapes(max_seqs, *lengths, readouts, in_prompts)
        if most := most_drafting(self.config):
            num_drafts = self.config.speculation.num_speculative_tokens
            shapes += draft_shapes(most, *lengths, num_drafts)
        if self.draft is not None:
            self.draft.capture()
        return DecoderGraphs(
            self._run_and_sample,
            self.attention.plan,
            self.attention.replan,
            self.inputs,
            shapes,
            self.model,
            self.ranks,
        )

    def _make_cross_kv(self) -> CrossKV:
        model = self.model_config
        models = [(self.model, self.pool)]
        if self.draft is not None:
            models.append((self.draft.model, self.draft.pool))
        cross_kv = CrossKV(models, self.arena)
        if self._uses_graphs and model.encoder is not None and self.cross is not None:
            fixed = model.has_equal_windows and self.config.encoder.window != "auto"
            sizes = cross_write_sizes(model.max_encoder_len, fixed)
            cross_kv.capture(sizes, model.encoder.output_size, self.target.dtype)
        return cross_kv

    # ------------------------------------------------------------------ one step

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> LaunchedStep:
        """Queues one step on the device, and does not wait for it. Only the last
        stage's result has tokens."""
        self.links.begin(plan)
        refused = self._take_changes(plan)
        self.cross_kv.write(plan.cross_writes)  # of their media, where it is not cached
        if plan.drafts is not None:  # which the step reads as its tokens
            self.outputs.places.fill(plan, self.slots)
            if self.draft is not None:
                self.draft.propose(plan)
        choice = self.choose_graph(plan)
        inputs = self.inputs.fill(plan, choice.shape or self.inputs.shape_of(plan))
        if inputs.shape.states and self.part.is_first:
            self.prompt_states.fill(plan.embeddings)
        self.links.receive_stream(inputs.shape.tokens)
        if choice.shape is not None and self.graphs is not None:
            self.graphs.replay(inputs)
        else:
            if choice.reason is not None and self.graphs is not None:
                self.eager_steps[choice.reason.counter] += 1
            features = self.sampler.features(plan.slots[plan.samples])
            self._run_and_sample(inputs, self.attention.plan(inputs), features)
        self.links.send_stream(inputs.shape.tokens)
        if not self.part.is_last:
            finished = FinishedStep(self.outputs.samples.first(len(plan.slots)))
        else:
            finished = self.outputs.finish(plan, inputs.shape)
            self.links.send_tokens(finished.samples)
        return LaunchedStep.of(finished, refused, self.ranks.limit)

    def _take_changes(self, plan: StepPlan) -> dict[int, Exception]:
        """Pages, tokens and settings of new sequences. Returns as `Slots.admit`."""
        if copies := plan.page_copies:
            self.pool.copy_pages(np.array([*copies.values()]), np.array([*copies]))
        if len(plan.beam_moves):
            self.tables.move(plan.beam_moves)
            self.slots.move(plan.beam_moves)
        self.tables.admit([*plan.forks, *plan.admissions], plan.cross_changes)
        self.slots.fork(plan.forks)
        return self.slots.admit(plan.admissions)

    def choose_graph(self, plan: StepPlan) -> GraphChoice:
        return (NO_SHAPES if self.graphs is None else self.graphs.shapes).choose(plan)

    # ------------------------------------------------------------------ what graphs hold

    def _run_and_sample(
        self,
        inputs: StepInputs,
        attentions: PlannedAttentions,
        features: SamplingFeatures = GRAPH_FEATURES,
    ) -> None:
        """The model, and the likeliest tokens under the rules of most requests."""
        hidden = self._run_layers(inputs, attentions)
        if self.part.is_last:
            self.outputs.compute(inputs, hidden, features)
        else:
            self.links.outgoing[: inputs.shape.tokens] = hidden

    def _run_layers(self, inputs: StepInputs, attentions: PlannedAttentions) -> torch.Tensor:
        """What the layers of this stage give, [tokens, hidden]."""
        self.inputs.lay_out(inputs)
        tensors = inputs.tensors
        positions = self.slots.positions_of(tensors.token_slots, tensors.positions)
        sees = self.tables.sees_of(tensors.token_slots)
        step = DecoderStep(self.pool, tensors.slot_mapping, *attentions, sees)
        if self.part.is_first:
            x = self.model.embed(tensors.token_ids, positions)
            x = self.prompt_states.put(x) if inputs.shape.states else x
        else:
            x = self.links.incoming[: inputs.shape.tokens]
        hidden: torch.Tensor = self.model(x, positions, step)
        self.pool.keep_queries(tensors.slot_mapping, step.cross_queries)
        return hidden
