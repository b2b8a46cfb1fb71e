"""On a CUDA device: hidden states from graphs are those without, and every batch says why not.

python -m pytest -m gpu tests/gpu/test_encoder.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from antiphon.config.options import resolve
from antiphon.encoder.graphs import NoGraph
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def load(folder: Path, **options: Any) -> tuple[ModelConfig, EncoderRunner]:
    config = resolve(str(folder), {"device": "cuda", "dtype": "float32", **options})
    model = ModelConfig.load(config.model)
    return model, EncoderRunner(model, config)


def check(runner: EncoderRunner, eager: EncoderRunner, inputs: list[np.ndarray]) -> None:
    assert not isinstance(runner.choose_graph(runner.frontend.pack(inputs)), NoGraph)
    assert eager.choose_graph(eager.frontend.pack(inputs)) == NoGraph("enforce_eager is set")
    replayed, expected = runner.encode(inputs), eager.encode(inputs)
    assert replayed.lengths == expected.lengths
    torch.testing.assert_close(replayed.hidden, expected.hidden, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["bart", "m2m100", "t5"])
def test_texts(name: str, checkpoints: Any) -> None:
    folder, _ = checkpoints(name)
    options = {"encoder_attention_backend": "triton", "max_encoder_batch_tokens": 96}
    (_, runner), (_, eager) = load(folder, **options), load(folder, **options, enforce_eager=True)
    for lengths in ([40, 3, 30], [7], [1, 20, 2], [5] * 8):
        rng = np.random.default_rng(sum(lengths))
        check(runner, eager, [rng.integers(1, 90, n).astype(np.int32) for n in lengths])
    longer = runner.frontend.pack([np.full(97, 5, np.int32)])
    assert runner.choose_graph(longer) == NoGraph("no graph holds 1 texts of 97 tokens")


def test_windows(checkpoints: Any) -> None:
    folder, _ = checkpoints("whisper")
    options = {"max_encoder_batch_tokens": 150}
    (model, runner), (_, eager) = (
        load(folder, **options),
        load(folder, **options, enforce_eager=True),
    )
    assert model.audio is not None
    rng = np.random.default_rng(0)
    clips = [(rng.standard_normal(model.audio.window) * 0.1).astype(np.float32) for _ in range(4)]
    for count in (3, 1, 2):
        check(runner, eager, [clip[: 4000 * (count + 1)] for clip in clips[:count]])
    reason = "4 windows are more than the largest graph's 3"
    assert runner.choose_graph(runner.frontend.pack(clips)) == NoGraph(reason)
    torch.testing.assert_close(
        runner.encode(clips).hidden, eager.encode(clips).hidden, atol=2e-4, rtol=1e-3
    )


def test_short_windows_run_without_graphs(whisper_folder: Path) -> None:
    model, runner = load(whisper_folder, encoder_window="auto")
    assert model.audio is not None
    clip = np.zeros(model.audio.window // 4, np.float32)
    assert runner.choose_graph(runner.frontend.pack([clip])) == NoGraph(
        "short windows have no graphs"
    )
    assert runner.encode([clip]).lengths == [model.audio.tokens_of(len(clip))]
