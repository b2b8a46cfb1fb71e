"""Runs a decoder: a step plan in, one sampled token per sequence out. The plan decides everything; nothing here schedules.

On a GPU nothing waits for the device: `launch` queues a step, `LaunchedStep.result` waits for its tokens. Tokens also stay on the
device, where the next step reads them, so it can be launched before they are known here.
"""

import logging
from dataclasses import dataclass, field

import numpy as np
import torch

from antiphon.attention.interface import PlannedAttention
from antiphon.attention.selection import select_paged, uncapturable
from antiphon.attention.specs import decoder_specs
from antiphon.config.arithmetic import ceil_div
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.decoder.graphs import (
    LONG_PROMPT_TOKENS,
    CrossWriteGraphs,
    DecoderGraphs,
    Plans,
    cross_write_sizes,
    shapes,
)
from antiphon.decoder.models import build
from antiphon.decoder.models.interface import DecoderModel, DecoderStep
from antiphon.decoder.room import check_room, num_pages
from antiphon.decoder.sampling.logprobs import DeviceLogprobs
from antiphon.decoder.sampling.sampler import Sampler
from antiphon.decoder.state import Slots
from antiphon.decoder.step_inputs import InputBuffer, StepInputs, StepShape
from antiphon.decoder.warm_up import KEY, ScratchSequence
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.halves import HeadTensors
from antiphon.kernels.formats import FLOAT8
from antiphon.kv.handoff import HandoffBuffer, HiddenStates
from antiphon.kv.pool import KVPool
from antiphon.layers.prepare import prepare_decoder
from antiphon.layers.quantization.kv_scales import ProjectionInput
from antiphon.layers.quantization.quantize import check_quantization
from antiphon.layers.weights import Checkpoint, check_unused, fill_randomly, load_weights
from antiphon.runtime.device import Target, probe, to_device
from antiphon.scheduler.plan import CrossWrite, StepPlan, StepResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LaunchedStep:
    """A step under way. `done` is None where the device is the host."""

    tokens: torch.Tensor  # on the host once `done`
    logprobs: DeviceLogprobs | None
    done: torch.cuda.Event | None
    refused: dict[int, Exception] = field(
        default_factory=dict
    )  # by slot: settings that could not be taken

    def result(self) -> StepResult:
        """Waits for the step."""
        if self.done is not None:
            self.done.synchronize()
        return StepResult(
            self.tokens.numpy(), None if self.logprobs is None else self.logprobs.on_host()
        )


class DecoderRunner:
    """Holds the decoder half of a checkpoint, its page pool, and what the device knows of the running sequences."""

    def __init__(
        self, model: ModelConfig, config: EngineConfig, timestamps: TimestampRules | None = None
    ) -> None:
        self.model_config, self.config = model, config
        self.target = Target.resolve(config.model, model.raw, model.family)
        self.device = self.target.device
        check_room(model, config)
        specs = decoder_specs(model.decoder, self.target, config.decoder)
        check_quantization(config.model.quantization, self.target)
        self.causal, self.cross = select_paged("decoder", config.decoder.attention_backend, specs)
        self.model = self._load()
        options, half = config.scheduler, model.decoder
        self.slots = Slots(
            options.max_num_seqs,
            model.max_decoder_len,
            half.vocab_size,
            self.device,
            half.padding_id,
        )
        self.pool = (
            self._make_pool()
        )  # behind what else is large: it takes its share of what is left
        self.sampler = Sampler(self.slots, timestamps)
        self.handoff = HandoffBuffer(self.device)
        pages = (self._pages_for(model.max_decoder_len), self._pages_for(model.max_encoder_len))
        most_tokens = (
            max(options.max_num_batched_tokens, model.max_decoder_len, LONG_PROMPT_TOKENS)
            + options.max_num_seqs
        )
        scratch = (self.slots.scratch, self.pool.scratch_page)
        under_way = 2 * options.num_scheduler_steps  # steps: a round looks one round ahead
        self.inputs = InputBuffer(
            options.max_num_seqs,
            most_tokens,
            *pages,
            self.pool.page_size,
            scratch,
            self.device,
            under_way + 1,
        )
        self._logits = torch.zeros(options.max_num_seqs, half.vocab_size, device=self.device)
        self._tokens = torch.zeros(options.max_num_seqs, dtype=torch.int64, device=self.device)
        self.graphs = self._capture()
        self.cross_graphs = self._capture_cross()
        self.warm_up()

    def warm_up(self) -> None:
        """Goes once through every rule of sampling and both kinds of steps, so that what is loaded, compiled or allocated at first use
        is so before the first request."""
        sequence = ScratchSequence(
            self.slots.scratch,
            self.pool.scratch_page,
            self.pool.page_size,
            self.model_config.max_decoder_len,
        )
        states = torch.zeros(
            1, self.model_config.encoder.hidden_size, dtype=self.target.dtype, device=self.device
        )
        for plan in sequence.plans(self.sampler.timestamps):
            if plan.cross_writes:
                self.handoff.put(HiddenStates((KEY,), (1,), states))
            self.launch(plan).result()

    def probe(self) -> None:
        """Raises if the device can't go on after an error."""
        probe(self.device)

    @property
    def overlap(self) -> bool:
        """True if a step can be launched while the one before it runs."""
        return self.device.type == "cuda"

    def _load(self) -> DecoderModel:
        checkpoint = (
            None if self.config.model.load_format == "dummy" else Checkpoint(self.model_config.path)
        )
        model = self._random() if checkpoint is None else self._read(checkpoint)
        states = None
        if self.cross.spec.kv_dtype == FLOAT8:
            half = self.model_config.encoder
            states = ProjectionInput.of_encoder(half, checkpoint, self.device)
        prepare_decoder(model, self.config.model.quantization, self.target, states)
        return model

    def _random(self) -> DecoderModel:
        half, raw = self.model_config.decoder, self.model_config.raw
        head = HeadTensors(tied=raw.get("tie_word_embeddings", True), bias=False)
        model = self.target.build(lambda: build(half, head))
        fill_randomly(model)
        return model

    def _read(self, checkpoint: Checkpoint) -> DecoderModel:
        half, raw = self.model_config.decoder, self.model_config.raw
        head = half.head_tensors(checkpoint, raw.get("tie_word_embeddings", True))
        model = self.target.build(lambda: build(half, head))
        load_weights(model, checkpoint, half.checkpoint_names)
        check_unused(checkpoint, "decoder", self.model_config.family.ignored)
        return model

    def _make_pool(self) -> KVPool:
        half, decoder = self.model_config.decoder, self.config.decoder
        dtype = self.cross.spec.kv_dtype or self.target.dtype
        shape = (decoder.kv_page_size, half.num_heads, half.head_dim, dtype)
        return KVPool(
            half.num_layers,
            num_pages(self.model_config, self.config, self.target),
            *shape,
            self.device,
        )

    def _pages_for(self, num_tokens: int) -> int:
        return ceil_div(num_tokens, self.config.decoder.kv_page_size)

    @torch.inference_mode()
    def _capture(self) -> DecoderGraphs | None:
        """Graphs for every shape; None on a CPU, with `enforce_eager`, or with a backend that can't be captured."""
        if self.device.type != "cuda" or self.config.model.enforce_eager:
            return None
        if reason := uncapturable(self.causal):
            logger.warning("decoder steps run without CUDA graphs: %s", reason)
            return None
        model = self.model_config
        available = shapes(
            self.config.scheduler.max_num_seqs, model.max_decoder_len, model.max_encoder_len
        )
        return DecoderGraphs(
            self._forward,
            self._plan_attention,
            self._replan_attention,
            self.inputs,
            available,
            self.model,
        )

    @torch.inference_mode()
    def _capture_cross(self) -> CrossWriteGraphs | None:
        """Needs nothing of the attention backend."""
        if self.device.type != "cuda" or self.config.model.enforce_eager:
            return None
        model = self.model_config
        fixed = model.family.input == "audio" and self.config.encoder.window == "full"
        sizes = cross_write_sizes(model.max_encoder_len, fixed)
        hidden = torch.zeros(
            max(sizes), model.encoder.hidden_size, dtype=self.target.dtype, device=self.device
        )

        def write(states: torch.Tensor, slots: torch.Tensor) -> None:
            self.model.write_cross(states, slots, self.pool)

        return CrossWriteGraphs(
            write, hidden, sizes, self.pool.scratch_page * self.pool.page_size, self.model
        )

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> LaunchedStep:
        """Queues one step: takes in new sequences, writes their cross KV, one forward, one token per sequence."""
        refused = self.slots.admit(plan.admissions)
        self._write_cross(plan.cross_writes)
        shape = self.graphs.fitting(plan) if self.graphs is not None else None
        inputs = self.inputs.fill(plan, shape or StepShape.of(plan))
        count = len(plan.slots)
        tokens, logits, logprobs = self._tokens[:count], self._logits[:count], None
        if shape is not None and self.graphs is not None:
            self.graphs.replay(inputs)
        else:
            self._run_model(inputs, self._plan_attention(inputs))
        if shape is None or not (asked := self.sampler.features(plan.slots)).fit_graph:
            tokens, logprobs = self.sampler(logits, plan.slots, plan.kv_lens)
        elif asked.logprobs:
            logprobs = self.sampler.logprobs(logits, tokens, plan.slots, plan.kv_lens)
        return self._send_back(tokens, logprobs, refused)

    def _send_back(
        self, tokens: torch.Tensor, logprobs: DeviceLogprobs | None, refused: dict[int, Exception]
    ) -> LaunchedStep:
        if self.device.type == "cpu":
            return LaunchedStep(tokens, logprobs, None, refused)
        host = torch.empty(len(tokens), dtype=torch.int64, pin_memory=True)
        host.copy_(tokens, non_blocking=True)
        copied = None if logprobs is None else logprobs.start_copy()
        done = torch.cuda.Event()
        done.record()
        return LaunchedStep(host, copied, done, refused)

    def _write_cross(self, writes: list[CrossWrite]) -> None:
        if not writes:
            return
        hidden = self.handoff.pop([write.key for write in writes])
        size = self.pool.page_size
        slots = [
            (write.pages[:, None] * size + np.arange(size)).reshape(-1)[: write.num_tokens]
            for write in writes
        ]
        where = to_device(np.concatenate(slots).astype(np.int32), self.device)
        if self.cross_graphs is not None:
            self.cross_graphs.replay(hidden, where)
        else:
            self.model.write_cross(hidden, where, self.pool)

    # ------------------------------------------------------------------ what graphs hold

    def _forward(self, inputs: StepInputs, plans: Plans) -> None:
        """The model and the likeliest tokens under the rules that most requests have."""
        self._run_model(inputs, plans)
        count = inputs.shape.sequences
        self.sampler.greedy(
            self._logits[:count], inputs.slots, inputs.lengths, self._tokens[:count]
        )

    def _run_model(self, inputs: StepInputs, plans: Plans) -> None:
        token_ids = self.slots.tokens[inputs.token_slots, inputs.positions]
        step = DecoderStep(self.pool, inputs.slot_mapping, *plans)
        hidden = self.model(
            token_ids, self.slots.positions_of(inputs.token_slots, inputs.positions), step
        )
        self._logits[: inputs.shape.sequences] = self.model.logits(hidden[inputs.last_tokens])

    def _plan_attention(self, inputs: StepInputs) -> Plans:
        causal = PlannedAttention.of(self.causal, inputs.causal)
        return causal, PlannedAttention.of(self.cross, inputs.cross)

    def _replan_attention(self, plans: Plans, inputs: StepInputs) -> None:
        causal, cross = plans
        causal.replan(inputs.causal)
        cross.replan(inputs.cross)
