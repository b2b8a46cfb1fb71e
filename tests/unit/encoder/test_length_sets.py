"""Encoders whose layers attend within different sets of lengths, against attention under a mask."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from encoder_graphs import Masked, load, with_graphs
from hypothesis import given
from hypothesis import strategies as st

from antiphon.attention.specs import encoder_spec
from antiphon.encoder import models
from antiphon.encoder.graphs import EncoderGraphs, NoGraph
from antiphon.encoder.models.bart import BartEncoder
from antiphon.encoder.models.length_sets import FULL, Blocks, LengthSet, WholeInputs
from antiphon.encoder.models.whisper import WhisperEncoder
from antiphon.encoder.runner import EncoderRunner
from antiphon.layers.shard import Part

SIZE = 5
SETS: Mapping[str, LengthSet] = {FULL: WholeInputs(), "window": Blocks(SIZE)}


class BlockBart(BartEncoder):
    """Every other layer attends within blocks of five tokens."""

    length_sets = SETS

    def __init__(self, half: Any, part: Part) -> None:
        super().__init__(half, part)
        self.layers[0].lengths = "window"


class BlockWhisper(WhisperEncoder):
    length_sets = SETS

    def __init__(self, half: Any, part: Part) -> None:
        super().__init__(half, part)
        self.layers[1].lengths = "window"


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "bart", BlockBart)
    monkeypatch.setitem(models.MODELS, "whisper", BlockWhisper)


def masked(runner: EncoderRunner, inputs: list[np.ndarray]) -> torch.Tensor:
    """Hidden states by the definition of both sets: tokens of one input, and of one block of it."""
    batch = runner.frontend.pack(inputs)
    owner = np.repeat(np.arange(len(inputs)), batch.lengths)
    block = np.concatenate([np.arange(length) // SIZE for length in batch.lengths])
    same_input = torch.from_numpy(owner[:, None] == owner[None])
    same_block = same_input & torch.from_numpy(block[:, None] == block[None])
    plans = {FULL: same_input, "window": same_block}
    hidden: torch.Tensor = runner.model(
        runner.frontend.embed(batch), Masked(runner.attention.spec), plans
    )
    assert not torch.allclose(
        hidden,
        runner.model(
            runner.frontend.embed(batch),
            Masked(runner.attention.spec),
            dict.fromkeys(SETS, same_input),
        ),
    ), "blocks must matter"
    return hidden


def texts(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(sum(lengths))
    return [rng.integers(3, 90, length).astype(np.int32) for length in lengths]


def test_a_batch_plans_each_set_once(checkpoints: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, runner = load(checkpoints("bart")[0])
    planned: list[list[int]] = []
    plan = runner.attention.plan

    def note(batch: Any) -> Any:
        planned.append(batch.lengths.tolist())
        return plan(batch)

    monkeypatch.setattr(runner.attention, "plan", note)
    inputs = texts(12, 3, 5)
    encoded = runner.encode(inputs)
    assert planned == [[12, 3, 5], [5, 5, 2, 3, 5]]
    assert encoded.lengths == [12, 3, 5]
    with torch.inference_mode():
        torch.testing.assert_close(encoded.hidden, masked(runner, inputs), atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="captured for real there: see tests/gpu")
def test_graphs_of_texts_hold_every_set(checkpoints: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from antiphon.attention.backends.triton import TritonFull  # in Triton's interpreter

    model, runner = load(checkpoints("bart")[0])
    assert model.encoder is not None
    attention = TritonFull(encoder_spec(model.encoder, runner.target))
    with_graphs(model, runner, attention, 96, monkeypatch)
    assert isinstance(runner.graphs, EncoderGraphs)
    for lengths in ((40, 3, 30), (7,), (1, 20, 2), (5,) * 8):
        inputs = texts(*lengths)
        assert not isinstance(runner.choose_graph(runner.frontend.pack(inputs)), NoGraph)
        with torch.inference_mode():
            expected = masked(runner, inputs) if max(lengths) > SIZE else None
        encoded = runner.encode(inputs)
        if expected is not None:
            torch.testing.assert_close(encoded.hidden, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="captured for real there: see tests/gpu")
def test_graphs_of_windows_hold_every_set(
    checkpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, runner = load(checkpoints("whisper")[0])
    assert model.audio is not None
    with_graphs(model, runner, runner.attention, 2 * model.audio.tokens, monkeypatch)
    rng = np.random.default_rng(0)
    sounds = [(rng.standard_normal(model.audio.window) * 0.1).astype(np.float32) for _ in range(2)]
    for inputs in (sounds, sounds[:1]):
        assert not isinstance(runner.choose_graph(runner.frontend.pack(inputs)), NoGraph)
        with torch.inference_mode():
            expected = masked(runner, inputs)
        torch.testing.assert_close(runner.encode(inputs).hidden, expected, atol=1e-4, rtol=1e-3)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(1, 12))
def test_blocks(inputs: list[int], size: int) -> None:
    blocks = Blocks(size)
    lengths = blocks.lengths(np.array(inputs))
    ends = set(np.cumsum(inputs).tolist())
    assert ends <= set(np.cumsum(lengths).tolist()), "a block has tokens of two inputs"
    assert lengths.min() >= 1
    assert lengths.max() <= blocks.longest(max(inputs))
    assert len(lengths) <= blocks.most_sequences(sum(inputs), len(inputs))
    assert len(lengths) == sum(-(-length // size) for length in inputs)
