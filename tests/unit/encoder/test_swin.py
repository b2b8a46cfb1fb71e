"""Swin's encoder gives what transformers gives: windows, shifted ones, and what lies between."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from ranked_encoder import ranked_encoder
from tiny_vision import SWIN, SWIN_SIZES, pixels, save, values
from transformers import PreTrainedModel, SwinConfig

from antiphon.attention.interface import AttentionSpec
from antiphon.attention.registry import BACKENDS
from antiphon.attention.selection import unsupported
from antiphon.config.errors import CheckpointError, ConfigurationError, UnsupportedModelError
from antiphon.config.options import resolve
from antiphon.config.parallel import Parallel
from antiphon.encoder.models.swin import merged_tokens, window_tokens
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.swin_half import swin
from antiphon.layers.shard import check_parallel

# Windows that fit, that reach over an edge, one row of them, and odd rows to merge.
SHAPES = [(40, 56), (24, 24), (37, 50), (24, 80), (40, 56), (52, 26)]
Made = tuple[Path, PreTrainedModel]


@pytest.fixture(scope="module", params=list(SWIN))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp(request.param)
    return folder, save(SWIN[request.param](), folder)


def runner_of(folder: Path, **options: object) -> EncoderRunner:
    config = resolve(str(folder), {"device": "cpu", **options})
    return EncoderRunner(ModelConfig.load(config.model), config)


@torch.inference_mode()
def check(model: PreTrainedModel, images: list[np.ndarray], encoded, pooled=None) -> None:
    for number, hidden in enumerate(encoded.hidden.split(encoded.lengths)):
        # A copy: transformers' layers keep on not shifting once an image was too small for it.
        wanted = deepcopy(model)(pixel_values=values(images[number]))
        expected = wanted.last_hidden_state[0]
        assert hidden.shape == expected.shape
        assert (hidden - expected).abs().max() <= 1e-4 * expected.abs().max()
        if pooled is not None:
            torch.testing.assert_close(pooled[number], wanted.pooler_output[0], atol=1e-4, rtol=0)


def test_images_of_mixed_sizes_in_one_batch(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    folder, model = made
    images = [pixels(seed, 1, 3, *shape) for seed, shape in enumerate(SHAPES)]
    with caplog.at_level("WARNING", "antiphon"):
        runner = runner_of(folder)
    assert caplog.messages == []  # every tensor is loaded, or ignored for a reason
    encoded = runner.encode(images)
    check(model, images, encoded, runner.pool(encoded))


@pytest.mark.parametrize(
    "parallel",
    [
        Parallel(2),
        pytest.param(Parallel(3), marks=pytest.mark.slow),
        pytest.param(Parallel(2, mode="data"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_several_ranks_give_the_same(made: Made, parallel: Parallel) -> None:
    folder, model = made
    images = [pixels(seed, 1, 3, *shape) for seed, shape in enumerate(SHAPES[:3])]
    with ranked_encoder(folder, parallel) as runner:
        check(model, images, runner.encode(images))


def test_stages_of_a_pipeline_are_refused() -> None:
    half = swin(SwinConfig(**SWIN_SIZES).to_dict())
    with pytest.raises(ConfigurationError, match="pipeline_parallel_size=2: layers of this encode"):
        check_parallel(half, Parallel(1, 2))
    check_parallel(half, Parallel(3))
    with pytest.raises(ConfigurationError, match="3 heads of attention"):
        check_parallel(half, Parallel(4))


def test_backends_without_a_bias_for_windows_are_refused() -> None:
    """Before weights load; the one that has it runs everywhere."""
    device = torch.device("cuda")
    spec = AttentionSpec(
        "full", 3, 3, 32, 1.0, torch.bfloat16, device, window_bias=True, ragged=True
    )
    reasons = {name: unsupported(name, spec) for name, row in BACKENDS.items() if row.full}
    assert reasons.pop("torch_sdpa") is None
    assert set(reasons.values()) == {"adds no bias to windows of an image"}


def test_images_that_are_too_small(made: Made) -> None:
    with pytest.raises(ValueError, match="2 x 7 tokens in the last stage are smaller than a windo"):
        runner_of(made[0]).encode([pixels(0, 1, 3, 16, 56)])


@pytest.mark.parametrize("grid", [(3, 3), (4, 9), (7, 5)])
@pytest.mark.parametrize("is_shifted", [False, True])
def test_every_token_is_in_one_window(grid: tuple[int, int], is_shifted: bool) -> None:
    windows = window_tokens(grid, 3, is_shifted)
    numbers = np.concatenate([tokens.reshape(-1) for tokens in windows.values()])
    assert sorted(numbers[numbers >= 0]) == list(range(grid[0] * grid[1]))
    assert len(windows) == (4 if is_shifted and min(grid) > 3 else 1)
    merged = merged_tokens(grid).reshape(-1)
    assert sorted(merged[merged >= 0]) == list(range(grid[0] * grid[1]))


def test_sizes_that_contradict_each_other() -> None:
    config = SwinConfig(**SWIN_SIZES).to_dict()
    with pytest.raises(CheckpointError, match=r"heads of its stages have \[8, 16\] features"):
        swin({**config, "num_heads": [3, 3]}).check("model")
    with pytest.raises(UnsupportedModelError, match="use_absolute_embeddings"):
        swin({**config, "use_absolute_embeddings": True})
