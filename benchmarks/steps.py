"""One encoder forward and one decoder step of a model with random weights, without Ray."""

import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from antiphon.benchmarks.machine import Machine, seconds
from antiphon.benchmarks.report import Row
from antiphon.config.arithmetic import ceil_div
from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.errors import ConfigurationError
from antiphon.config.options import EngineConfig
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.runner import DecoderRunner
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.halves import Half
from antiphon.families.image_halves import ImageHalf
from antiphon.layers.linear import Linear
from antiphon.scheduler.plan import Admission, StepPlan

STEPS_ON_HOST = 4


@dataclass(frozen=True)
class Work:
    """Floating-point operations for one encoder input."""

    linear: float
    attention: float

    @classmethod
    def of(cls, half: Half, tokens: int) -> "Work":
        inner, kv = half.num_heads * half.head_dim, half.num_kv_heads * half.head_dim
        feed_forward = half.feed_forward_matrices * half.hidden_size * half.ffn_size
        weights = 2 * half.hidden_size * (inner + kv) + feed_forward
        return cls(2 * tokens * weights * half.num_layers, 4 * tokens**2 * inner * half.num_layers)


def encoder(
    model: ModelConfig, config: EngineConfig, machine: Machine, batches: list[int], tokens: int
) -> list[Row]:
    """From samples or token ids on the host to hidden states, for each of `batches`.

    The limit is the arithmetic at the measured matmul rate.
    """
    assert model.encoder is not None
    began = time.perf_counter()
    runner = EncoderRunner(model, config)
    ready = time.perf_counter() - began
    rows = []
    for batch in batches:
        inputs = random_inputs(model, batch, tokens)
        length = model.audio.tokens if model.audio is not None else tokens
        work = Work.of(model.encoder, length)
        took = seconds(partial(runner.encode, inputs), 600)
        limit = machine.bf16_flops_per_second / (work.linear + work.attention)
        rows.append(
            {
                "half": "encoder",
                "attention": runner.attention.name,
                "batch": batch,
                "ms": took * 1e3,
                "inputs/s": batch / took,
                "limit": limit,
                "of_limit_%": 100 * batch / took / limit,
                "ready_s": ready,
            }
        )
    return rows


def random_inputs(model: ModelConfig, batch: int, tokens: int) -> list[np.ndarray]:
    """Of an encoder: windows of samples, or texts of so many `tokens`. Raises ConfigurationError
    for one of images."""
    assert model.encoder is not None
    if isinstance(model.encoder, ImageHalf):
        raise ConfigurationError(
            f"{model.architecture} reads images: benchmarks/scripts/image_encoders.py measures them"
        )
    rng = np.random.default_rng(0)
    if model.audio is not None:
        size = model.audio.window
        return [rng.standard_normal(size).astype(np.float32) for _ in range(batch)]
    most = model.encoder.vocab_size
    return [rng.integers(3, most, tokens).astype(np.int32) for _ in range(batch)]


def decoder(
    model: ModelConfig,
    config: EngineConfig,
    machine: Machine,
    batches: list[int],
    cross_len: int,
    length: int,
) -> list[Row]:
    """A decode step by itself, for each of `batches` sequences.

    The limit is the bytes that the step must read at the measured copy rate.
    """
    began = time.perf_counter()
    runner = DecoderRunner(model, config)
    ready = time.perf_counter() - began
    weights = bytes_per_step(runner)
    half, pool = model.decoder, runner.pool
    token_bytes = 2 * half.num_layers * half.num_kv_heads * half.head_dim * pool.dtype.itemsize
    rows = []
    for batch in batches:
        admissions = admissions_of(runner, batch, cross_len, length)
        runner.launch(decodes_plan(batch, length, admissions)).result()
        plan = decodes_plan(batch, length, [])
        assert runner.graphs is not None
        shape = runner.choose_graph(plan).shape
        assert shape is not None
        inputs = runner.inputs.fill(plan, shape)
        took = seconds(partial(runner.graphs.replay, inputs), 300)
        with_host = seconds_with_host(runner, plan)
        read = weights + batch * (cross_len + length) * token_bytes
        limit = read / machine.copy_bytes_per_second
        rows.append(
            {
                "half": "decoder",
                "attention": runner.causal.name,
                "kv": str(pool.dtype).removeprefix("torch."),
                "batch": batch,
                "ms": took * 1e3,
                "tokens/s": batch / took,
                "limit_ms": limit * 1e3,
                "times_limit": took / limit,
                "weights_gib": weights / 2**30,
                "ms_with_host": with_host * 1e3,
                "ready_s": ready,
            }
        )
    return rows


def decoder_with_host(
    model: ModelConfig, config: EngineConfig, batches: list[int], cross_len: int, length: int
) -> list[Row]:
    """A few of the steps that `decoder` measures, with the host's work: where there is no GPU."""
    runner, rows = DecoderRunner(model, config), list[Row]()
    for batch in batches:
        admissions = admissions_of(runner, batch, cross_len, length)
        runner.launch(decodes_plan(batch, length, admissions)).result()
        took = seconds_with_host(runner, decodes_plan(batch, length, []), STEPS_ON_HOST)
        rows.append({"half": "decoder", "batch": batch, "ms_with_host": took * 1e3})
    return rows


def seconds_with_host(runner: DecoderRunner, plan: StepPlan, steps: int = 50) -> float:
    """Mean time of a step with the host's work, launched one step ahead as the engine does."""
    began = time.perf_counter()
    step = runner.launch(plan)
    for _ in range(steps - 1):
        following = runner.launch(plan)
        step.result()
        step = following
    step.result()
    return (time.perf_counter() - began) / steps


def bytes_per_step(runner: DecoderRunner) -> int:
    """Bytes of weights that a decode step reads.

    Not counted: embeddings, of which a step reads a few rows, and the projections of cross KV,
    which run once for each input.
    """
    head = runner.model.get_parameter("lm_head.weight").nbytes
    skipped = {id(attention.kv) for attention in runner.model.cross_attentions}
    layers = (
        module
        for module in runner.model.modules()
        if isinstance(module, Linear) and id(module) not in skipped
    )
    return head + sum(layer.nbytes for layer in layers)


def admissions_of(
    runner: DecoderRunner, batch: int, cross_len: int, length: int
) -> list[Admission]:
    """Of `batch` sequences, each with its own pages."""
    size = runner.pool.page_size
    own, cross = ceil_div(length, size), ceil_div(cross_len, size)
    pages = np.arange(runner.pool.num_pages, dtype=np.int32)
    assert len(pages) >= batch * (own + cross), "too few KV pages for this batch"
    shuffled = np.random.default_rng(0).permutation(pages)
    tables = shuffled[: batch * (own + cross)].reshape(batch, own + cross)
    tokens, params, rules = np.zeros(length, np.int64), SamplingParams(), DecodingRules()
    return [
        Admission(slot, tokens, 1, length, 0, params, rules, table[:own], table[own:], cross_len)
        for slot, table in enumerate(tables)
    ]


def decodes_plan(batch: int, length: int, admissions: list[Admission], lane: int = 0) -> StepPlan:
    """A step of `batch` decodes, in the slots of a lane."""
    slots, ones = lane * batch + np.arange(batch), np.ones(batch, np.int64)
    return StepPlan(admissions, [], slots, slots, ones, ones * length, ones > 0, lane=lane)
