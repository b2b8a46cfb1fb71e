"""Benchmarks of models that read images, on a CPU with very small ones."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from antiphon.benchmarks import (
    image_encoders,
    image_peers,
    local,
    profiles,
    serving,
    shapes,
    steps,
)
from antiphon.benchmarks.image_shapes import ENCODERS, MODELS, small, small_encoder
from antiphon.benchmarks.machine import Machine
from antiphon.benchmarks.report import Row
from antiphon.config.errors import ConfigurationError
from antiphon.config.options import ModelOptions
from antiphon.engine.async_engine import AsyncEngine
from antiphon.families.checkpoint import ModelConfig

OPTIONS = {"load_format": "dummy", "device": "cpu", "max_num_seqs": 4}
VOCAB = 12_000


@pytest.fixture
def qwen(tmp_path: Path) -> str:
    config = small(MODELS["qwen2.5-vl-7b"])
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    config["text_config"] |= {"vocab_size": VOCAB, "max_position_embeddings": 256, **ends}
    ids = {"image_token_id": VOCAB - 1, "video_token_id": VOCAB - 2}
    shapes.write_checkpoint({**config, **ids}, tmp_path)
    return str(tmp_path)


def test_callers_of_prompts_with_two_images(qwen: str) -> None:
    async def measured() -> dict[str, float]:
        async with AsyncEngine(qwen, ray=False, **OPTIONS) as engine:
            load = serving.Load(requests=4, input_size=56, output_tokens=3, images=2)
            row = await serving.latency(engine, load, 2)
            assert (await engine.stats())["encoder_inputs"] == 2 * (4 + 2)  # none is asked twice
            return row

    row = asyncio.run(measured())
    assert (row["concurrency"], row["requests"]) == (2, 4)
    assert 0 < row["first_token_ms"] < row["median_ms"] <= row["p95_ms"]


def test_a_callers_loop_without_clients_is_refused(qwen: str) -> None:
    with pytest.raises(ConfigurationError, match="reads images"):
        local.LocalEngine(qwen, OPTIONS, serving.Load(1, 56, 1))
    model = ModelConfig.load(ModelOptions(qwen))
    with pytest.raises(ConfigurationError, match=r"image_encoders\.py"):
        steps.random_inputs(model, 1, 16)


def test_an_encoder_beside_transformers_and_the_limit(tmp_path: Path) -> None:
    """Patches of images of two sizes; what they cost is counted."""
    shapes.write_checkpoint(small_encoder(ENCODERS["qwen2.5-vl-vision"]), tmp_path)
    batches = [(2, 112, 112), (1, 224, 112)]
    theirs, operations = image_peers.encoder(tmp_path, "sdpa", batches, torch.float32, "cpu")
    # Images of as many patches; torch counts attention on GPUs alone.
    assert 0 < operations[2, 112, 112] <= operations[1, 224, 112]
    ours = image_encoders.measure(str(tmp_path), {"device": "cpu"}, batches)
    machine = Machine("a CPU", torch.__version__, 1e10, 1e11, 1)
    rows = image_encoders.with_limits(theirs + ours, operations, machine)
    assert [(row["engine"], row["images"], row["size"]) for row in rows] == [
        (engine, count, f"{width}x{height}")
        for engine in ("transformers", "antiphon")
        for count, height, width in batches
    ]
    for row in rows:
        shape = (row["images"], *map(int, reversed(row["size"].split("x"))))
        rate = operations[shape] / row["ms"] * 1e3
        assert row["of_matmul_%"] == pytest.approx(100 * rate / 1e11)
    assert rows[2]["times_transformers"] == pytest.approx(rows[0]["ms"] / rows[2]["ms"])


def test_a_profile_has_every_kernel_once(tmp_path: Path) -> None:
    shapes.write_checkpoint(small_encoder(ENCODERS["qwen2.5-vl-vision"]), tmp_path)
    made = []

    def watch(row: Row, work: Callable[[], Any]) -> None:
        made.append((row["images"], profiles.rows_of(profiles.kernels(profiles.traced(work)), 4)))

    image_encoders.measure(str(tmp_path), {"device": "cpu"}, [(2, 112, 112)], watch)
    ((images, rows),) = made
    assert images == 2
    *shown, others, total = rows
    assert [row["us"] for row in shown] == sorted((row["us"] for row in shown), reverse=True)
    assert len(shown) == 4
    for name in ("us", "%", "launches"):
        parts = sum(row[name] for row in (*shown, others))
        assert parts == pytest.approx(total[name])
    assert total["%"] == pytest.approx(100)
