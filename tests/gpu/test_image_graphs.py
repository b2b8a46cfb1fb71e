"""On a CUDA device: image encoders give from graphs what they give without.

python -m pytest -m gpu tests/gpu/test_image_graphs.py
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from image_batches import ENCODERS, image_batches, make_encoder
from made_once import made_once

from antiphon.config.options import resolve
from antiphon.encoder.graphs import EncoderGraphs, NoGraph
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.02}  # of the largest value
PATCHED = ("qwen2_vl", "qwen2_5_vl")
Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    get = made_once(make_encoder, tmp_path_factory)
    return lambda name: get(name)[0]


def load(folder: Path, **options: Any) -> EncoderRunner:
    config = resolve(str(folder), {"device": "cuda", "max_encoder_batch_tokens": 1000, **options})
    return EncoderRunner(ModelConfig.load(config.model), config)


@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("name", ENCODERS)
def test_graphs_give_what_runs_without_them(name: str, dtype: str, made: Made) -> None:
    """Numbers of images that are mixed, before and behind others."""
    options = {"dtype": dtype}
    if name in PATCHED:
        options["encoder_attention_backend"] = "triton"
    runner, eager = load(made(name), **options), load(made(name), **options, enforce_eager=True)
    assert isinstance(runner.graphs, EncoderGraphs), runner.graphs
    batches = image_batches(made(name))
    for images in [*batches, *reversed(batches)]:
        assert not isinstance(runner.choose_graph(runner.frontend.pack(images)), NoGraph)
        replayed, expected = runner.encode(images), eager.encode(images)
        assert replayed.lengths == expected.lengths
        largest = expected.hidden.abs().max()
        difference = (replayed.hidden - expected.hidden).abs().max()
        assert difference <= TOLERANCES[dtype] * largest
