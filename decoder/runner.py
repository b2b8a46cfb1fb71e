"""Runs a decoder: a step plan in, one sampled token per sequence out. The plan decides everything; nothing here schedules."""

import numpy as np
import torch

from antiphon.attention.interface import PagedBatch
from antiphon.attention.selection import select
from antiphon.attention.specs import decoder_specs
from antiphon.config.errors import ConfigurationError
from antiphon.config.model import ModelConfig
from antiphon.config.options import EngineConfig
from antiphon.config.sampling import TimestampRules
from antiphon.decoder.models import build
from antiphon.decoder.models.interface import DecoderModel, DecoderStep
from antiphon.decoder.sampling import Sampler
from antiphon.decoder.slots import Slots
from antiphon.kv.handoff import HandoffBuffer
from antiphon.kv.pool import KVPool
from antiphon.layers.device import Target
from antiphon.layers.weights import Checkpoint, load_weights
from antiphon.scheduler.plan import CrossWrite, StepPlan, StepResult

GIB = 1 << 30
CPU_CACHE_GIB, FREE_GPU_SHARE = 4.0, 0.85


class DecoderRunner:
    """Holds the decoder half of a checkpoint, its page pool, and what the device knows of the running sequences."""

    def __init__(self, model: ModelConfig, config: EngineConfig, timestamps: TimestampRules | None = None) -> None:
        self.model_config, self.config = model, config
        self.target = Target.resolve(config.model, model.raw)
        self.device = self.target.device
        specs = decoder_specs(model.decoder, self.target, config.decoder.kv_page_size)
        self.causal, self.cross = select("decoder", config.decoder.decoder_attention_backend, specs)
        self.model = self._load()
        self.pool = self._make_pool()
        self.slots = Slots(config.scheduler.max_num_seqs, model.max_decoder_len, model.decoder.vocab_size, self.device)
        self.sampler = Sampler(self.slots, timestamps)
        self.handoff = HandoffBuffer(self.device)

    def _load(self) -> DecoderModel:
        checkpoint, half, raw = Checkpoint(self.model_config.path), self.model_config.decoder, self.model_config.raw
        own_head = "lm_head.weight" in checkpoint or "proj_out.weight" in checkpoint
        # T5's config says nothing reliable about tying: a head that is stored is used.
        tied = not own_head or (half.structure != "t5" and raw.get("tie_word_embeddings", True))
        model = self.target.build(lambda: build(half, tied, "final_logits_bias" in checkpoint))
        load_weights(model, checkpoint, model.checkpoint_names)
        return model

    def _make_pool(self) -> KVPool:
        half, decoder = self.model_config.decoder, self.config.decoder
        shape = (decoder.kv_page_size, half.num_heads, half.head_dim, self.target.dtype)
        page_bytes = KVPool.bytes_per_page(half.num_layers, *shape)
        return KVPool(half.num_layers, self._num_pages(page_bytes), *shape, self.device)

    def _num_pages(self, page_bytes: int) -> int:
        """As asked; else what max_num_seqs full sequences need twice over (so that content stays cached), within memory."""
        decoder, model = self.config.decoder, self.model_config
        if decoder.num_kv_pages is not None:
            return decoder.num_kv_pages
        per_sequence = -(-model.max_decoder_len // decoder.kv_page_size) + -(-model.max_encoder_len // decoder.kv_page_size)
        if decoder.kv_cache_memory_gib is not None:
            budget = int(decoder.kv_cache_memory_gib * GIB)
        elif self.device.type == "cuda":
            budget = int(torch.cuda.mem_get_info(self.device)[0] * FREE_GPU_SHARE)
        else:
            budget = int(CPU_CACHE_GIB * GIB)
        pages = min(budget // page_bytes, 2 * self.config.scheduler.max_num_seqs * per_sequence)
        if pages < per_sequence:
            raise ConfigurationError(
                f"{budget / GIB:.2f} GiB of KV cache hold {budget // page_bytes} pages of {page_bytes} bytes; one full sequence "
                f"needs {per_sequence}: raise kv_cache_memory_gib, or lower max_model_len or max_encoder_len"
            )
        return pages

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """Runs one step: takes in new sequences, writes their cross KV, one forward, one token per sequence."""
        self.slots.admit(plan.admissions)
        self._write_cross(plan.cross_writes)
        logits = self.model.logits(self._forward(plan)[self._tensor(np.cumsum(plan.query_lens) - 1)])
        tokens, logprobs = self.sampler(logits, plan.slots, plan.kv_lens)
        unfinished = plan.kv_lens < self.slots.tokens.shape[1]
        rows, columns = self._tensor(plan.slots[unfinished]), self._tensor(plan.kv_lens[unfinished])
        self.slots.tokens[rows, columns] = tokens[self._tensor(np.flatnonzero(unfinished))]
        return StepResult(tokens.cpu().numpy(), None if logprobs is None else logprobs.to_host())

    def _write_cross(self, writes: list[CrossWrite]) -> None:
        if not writes:
            return
        hidden = self.handoff.take([write.key for write in writes])
        slots = np.concatenate([self._page_slots(write.pages, np.arange(write.num_tokens)) for write in writes])
        self.model.write_cross(hidden, self._tensor(slots), self.pool)

    def _page_slots(self, pages: np.ndarray, positions: np.ndarray) -> np.ndarray:
        size = self.pool.page_size
        return pages[positions // size].astype(np.int64) * size + positions % size

    def _forward(self, plan: StepPlan) -> torch.Tensor:
        """Hidden states [tokens, hidden] of the step's tokens."""
        sequence = np.repeat(np.arange(len(plan.slots)), plan.query_lens)  # [tokens] row of each token
        within = np.arange(plan.num_tokens) - np.repeat(np.cumsum(plan.query_lens) - plan.query_lens, plan.query_lens)
        positions = (plan.kv_lens - plan.query_lens)[sequence] + within
        size = self.pool.page_size
        write_at = plan.self_table[sequence, positions // size].astype(np.int64) * size + positions % size
        on_device = self._tensor(positions)
        token_ids = self.slots.tokens[self._tensor(plan.slots[sequence]), on_device]
        step = DecoderStep(
            pool=self.pool,
            self_slots=self._tensor(write_at),
            causal=self.causal,
            causal_plan=self.causal.plan(PagedBatch.of(plan.query_lens, plan.kv_lens, plan.self_table, self.device)),
            cross=self.cross,
            cross_plan=self.cross.plan(PagedBatch.of(plan.query_lens, plan.cross_lens, plan.cross_table, self.device)),
        )
        return self.model(token_ids, on_device, step)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
