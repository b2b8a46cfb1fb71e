"""Scripts that measure a GPU, on a CPU with very small models."""

import argparse
import asyncio
from pathlib import Path

import pytest
import torch

import antiphon.benchmarks.scripts.drafts_by_callers as drafts_by_callers
import antiphon.benchmarks.scripts.http_overhead as http_overhead
import antiphon.benchmarks.scripts.image_requests as image_requests
import antiphon.benchmarks.scripts.quantized_models as quantized_models
import antiphon.benchmarks.scripts.speech_quality as speech_quality
from antiphon.benchmarks import shapes
from antiphon.benchmarks.image_shapes import MODELS, small
from antiphon.decoder.sampling.samples import Samples
from antiphon.decoder.sampling.verification import DraftPlaces
from antiphon.decoder.state import Slots
from antiphon.engine.async_engine import AsyncEngine

CPU = torch.device("cpu")
DUMMY = {"load_format": "dummy", "device": "cpu"}


def test_steps_of_a_model_that_reads_images(tmp_path: Path) -> None:
    config = small(MODELS["qwen2.5-vl-7b"])
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    config["text_config"] |= {"vocab_size": 500, "max_position_embeddings": 512, **ends}
    shapes.write_checkpoint({**config, "image_token_id": 498, "video_token_id": 499}, tmp_path)
    rows = image_requests.decode_steps(str(tmp_path), {**DUMMY, "ray": False, "max_num_seqs": 32})
    assert [row["batch"] for row in rows] == image_requests.STEP_SEQUENCES
    assert all(row["ms_with_host"] > 0 for row in rows)


@pytest.mark.parametrize("scheme", quantized_models.STORED)
def test_steps_of_quantised_weights(scheme: str, tmp_path: Path) -> None:
    stored = quantized_models.STORED[scheme]
    config = {**quantized_models.TINY_TEXT, "quantization_config": stored}
    shapes.write_checkpoint(config, tmp_path)
    options = {**DUMMY, "max_num_seqs": 4, "max_model_len": 64}
    rows = quantized_models.steps(str(tmp_path), options, "tiny-text", [1, 4])
    assert [(row["batch"], row["ms"] > 0) for row in rows] == [(1, True), (4, True)]


@pytest.mark.parametrize(("share", "held"), [(1.0, 2), (0.0, 0)])
def test_drafts_are_as_often_right_as_asked_for(share: float, held: int) -> None:
    places, samples = DraftPlaces.empty(4, 12, CPU), Samples.empty(12, CPU)
    places.counts.fill_(2)
    samples.tokens.copy_(torch.arange(12))
    accepted = drafts_by_callers.forced(share)(places, samples, Slots(12, 8, 20, CPU))
    assert accepted.tolist() == [held] * 4


@pytest.mark.slow
def test_callers_with_and_without_http_and_what_quality_costs() -> None:
    clips = http_overhead.Clips(0.5, seed=0)
    arguments = argparse.Namespace(
        engine=["device=cpu"], no_ray=True, seconds=0.5, tokens=2, beams=2, callers=2, requests=2,
        rounds=1,
    )  # fmt: skip

    async def scenario(folder: str) -> None:
        async with AsyncEngine(folder, ray=False, **DUMMY) as engine:
            for stream in (False, True):
                times = await http_overhead.direct(engine, clips, 2, 3, stream)
                assert http_overhead.figures(times)["requests/s"] > 0
        rows = await speech_quality.measure(folder, arguments)
        assert [row[""] for row in rows] == ["greedy", "statistics", "word times", "beams"]

    with shapes.speech_of_one_length("tiny", 2) as folder:
        asyncio.run(scenario(folder))
