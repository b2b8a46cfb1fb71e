"""When tokens were said: the attention of the heads that follow the sound, and what openai/whisper
makes of it. transformers computes the same on the same checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine
from ranked_engine import RankedEngine
from tiny_models import FAMILIES
from transformers import PreTrainedModel, WhisperFeatureExtractor
from transformers.models.whisper.generation_whisper import (
    _dynamic_time_warping,
    _median_filter,
)

from antiphon.config.decoding_rules import DecodingRules, TimestampRules
from antiphon.config.errors import CheckpointError
from antiphon.config.options import ModelOptions
from antiphon.config.parallel import Parallel
from antiphon.decoder.alignment import LaunchedAlignments, salience
from antiphon.families.alignment_heads import alignment_heads
from antiphon.families.checkpoint import ModelConfig
from antiphon.kernels.cpu_smoothing import smoothed_sum
from antiphon.kernels.time_warping import first_columns
from antiphon.scheduler.alignment import (
    NO_FRAME,
    AlignedSequence,
    Alignment,
    aligned_sequence,
    frames_of_all,
)
from antiphon.scheduler.request import Finished, RequestState

PROMPT = [61, 62, 65, 66]
FRAMES = 37
TOKENS = 20
HEADS = [[0, 1], [1, 0], [1, 2], [2, 1]]
Whisper = tuple[Path, PreTrainedModel]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    """A tiny Whisper whose heads are named."""
    folder = tmp_path_factory.mktemp("aligned")
    torch.manual_seed(3)
    model = FAMILIES["whisper"]().eval()
    model.generation_config.alignment_heads = HEADS
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80, chunk_length=1).save_pretrained(folder)
    return folder, model


def clip(seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(12_000) * 0.1).astype(np.float32)


def play(engine: PlainEngine, count: int = 3, **fields: Any) -> list[Finished]:
    alignment = Alignment(0, len(PROMPT), FRAMES)
    ids = [
        engine.submit(engine.request(clip(seed), PROMPT, TOKENS, alignment=alignment, **fields))
        for seed in range(count)
    ]
    ends = engine.run()
    return [ends[id_] for id_ in ids]


@pytest.fixture(scope="module")
def alone(whisper: Whisper) -> list[Finished]:
    """What one rank gives without any trouble."""
    return play(PlainEngine(whisper[0]))


def attention_of_oracle(whisper: Whisper, seed: int, token_ids: list[int]) -> torch.Tensor:
    """[heads, tokens, frames], cut to the sound as openai/whisper does. Of the tokens
    whose queries a request computes: all but the last."""
    folder, model = whisper
    features = WhisperFeatureExtractor.from_pretrained(folder)(
        clip(seed), sampling_rate=16_000, return_tensors="pt"
    ).input_features
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        output = model(
            features,
            decoder_input_ids=torch.tensor([[*PROMPT, *token_ids[:-1]]]),
            output_attentions=True,
        )
    weights = torch.stack([output.cross_attentions[layer][0, head] for layer, head in HEADS])
    return weights[:, :, :FRAMES] / weights[:, :, :FRAMES].sum(-1, keepdim=True)


def expected_frames(weights: torch.Tensor, lead: int) -> list[int]:
    """By the parts that transformers has of it."""
    deviation = torch.std(weights, dim=-2, keepdim=True, unbiased=False)
    normal = (weights - weights.mean(-2, keepdim=True)) / deviation
    matrix = _median_filter(normal, 7).mean(0)[lead:]
    rows, columns = _dynamic_time_warping(-matrix.double().numpy())
    enters = np.pad(np.diff(rows), (1, 0), constant_values=1).astype(bool)
    frames: list[int] = columns[enters].tolist()
    return frames


# ---------------------------------------------------------------------- its parts


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 40), (40, 7), (30, 200)])
def test_time_warping_is_transformers(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    for scores in (rng.standard_normal(shape), rng.integers(0, 3, shape).astype(float)):
        rows, columns = _dynamic_time_warping(-scores)
        enters = np.pad(np.diff(rows), (1, 0), constant_values=1).astype(bool)
        assert first_columns(scores).tolist() == columns[enters].tolist()


@pytest.mark.parametrize(
    ("width", "frames"),
    [(1, 1), (1, 50), (3, 1), (3, 2), (7, 3), (7, 4), (7, 5), (7, 90), (15, 9)],
)
def test_smoothing_is_transformers(width: int, frames: int) -> None:
    values = torch.randn(3, 4, frames, generator=torch.Generator().manual_seed(frames))
    expected = _median_filter(values, width).sum(0)
    torch.testing.assert_close(torch.from_numpy(smoothed_sum(values.numpy(), width)), expected)


def test_equal_rows_stand_out_nowhere() -> None:
    assert not salience(torch.full((2, 3, 5), 0.2)).any()


def test_timestamps_are_not_aligned() -> None:
    rules = DecodingRules(timestamps=TimestampRules(90, 66, 60, None, 95))
    tokens = np.array([7, 61, 62, 90, 5, 6, 92, 92, 8, 94, 60])  # earlier text; start; times
    one = aligned_sequence(3, tokens, Alignment(1, 3, 9), rules)
    assert isinstance(one, AlignedSequence)
    assert (one.slot, one.lead, one.frames) == (3, 1, 9)
    assert one.positions.tolist() == [1, 3, 4, 7, 9]  # of the start, and before each text token
    frames = frames_of_all(tokens[3:], rules, np.array([2, 4, 6, 8]))
    assert frames == [NO_FRAME, 2, 4, NO_FRAME, NO_FRAME, 6, NO_FRAME, 8]


# ---------------------------------------------------------------------- which heads


def test_heads_of_the_generation_config(whisper: Whisper) -> None:
    model = ModelConfig.load(ModelOptions(str(whisper[0])))
    assert alignment_heads(model) == tuple(map(tuple, HEADS))


def test_heads_where_none_are_named(folder_of: Callable[[str], Path]) -> None:
    model = ModelConfig.load(ModelOptions(str(folder_of("whisper"))))
    assert alignment_heads(model) == tuple((layer, head) for layer in (1, 2) for head in range(3))
    assert alignment_heads(ModelConfig.load(ModelOptions(str(folder_of("bart"))))) == ()


@pytest.mark.parametrize("stated", [[[9, 0]], [[0, 3]], [[0, -1]], [[0]], 5, "ab"])
def test_impossible_heads_are_refused(whisper: Whisper, stated: Any) -> None:
    model = ModelConfig.load(ModelOptions(str(whisper[0])))
    object.__setattr__(model, "generation", {**model.generation, "alignment_heads": stated})
    with pytest.raises(CheckpointError, match="alignment_heads"):
        alignment_heads(model)


# ---------------------------------------------------------------------- in the engine


def test_frames_are_those_of_the_oracle(whisper: Whisper, alone: list[Finished]) -> None:
    for seed, end in enumerate(alone):
        weights = attention_of_oracle(whisper, seed, end.token_ids)
        assert end.frames == expected_frames(weights, len(PROMPT) - 1)
        assert len(set(end.frames)) > 3


def test_attention_is_that_of_the_oracle(whisper: Whisper, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = PlainEngine(whisper[0])
    aligner, seen = engine.replica.runner.aligner, list[torch.Tensor]()
    assert aligner is not None
    queries, launch = aligner.heads.queries, aligner.launch
    assert queries is not None

    def watched(sequences: list[AlignedSequence]) -> LaunchedAlignments:
        seen.extend(aligner.heads.weights(queries, one) for one in sequences)
        return launch(sequences)

    monkeypatch.setattr(aligner, "launch", watched)
    ends = play(engine)
    for seed, (end, weights) in enumerate(zip(ends, seen, strict=True)):
        oracle = attention_of_oracle(whisper, seed, end.token_ids)
        torch.testing.assert_close(weights, oracle, atol=1e-5, rtol=1e-3)


def test_only_who_asks_is_aligned(whisper: Whisper) -> None:
    engine = PlainEngine(whisper[0])
    number = engine.submit(engine.request(clip(0), PROMPT, TOKENS))
    assert engine.run()[number].frames is None


def test_preempted_requests_give_the_same(whisper: Whisper, alone: list[Finished]) -> None:
    engine = PlainEngine(whisper[0], num_kv_pages=28, kv_page_size=8)
    ends = play(engine)
    assert sum(end.metrics.preemptions for end in ends) > 0
    assert [end.token_ids for end in ends] == [end.token_ids for end in alone]
    assert [end.frames for end in ends] == [end.frames for end in alone]


def test_a_request_that_goes_on_gives_the_same(whisper: Whisper, alone: list[Finished]) -> None:
    engine = PlainEngine(whisper[0])
    request = engine.request(
        clip(0), PROMPT, TOKENS, alignment=Alignment(0, len(PROMPT), FRAMES),
        generated=alone[0].token_ids[:7],
    )  # fmt: skip
    end = engine.run()[number] if (number := engine.submit(request)) is not None else None
    assert end is not None
    assert (end.token_ids, end.frames) == (alone[0].token_ids, alone[0].frames)


def test_forks_have_the_queries_of_what_they_share(whisper: Whisper) -> None:
    engine = PlainEngine(whisper[0], kv_page_size=8)
    alignment = Alignment(0, len(PROMPT), FRAMES)
    parent, child = (engine.request(clip(0), PROMPT, TOKENS, alignment=alignment) for _ in range(2))
    engine.submit(parent)
    for _ in range(9):
        engine.step()
    engine.replica.scheduler.fork(parent, child)
    assert engine.replica.scheduler.counters["forks"] == 1
    ends = engine.run()
    assert ends[child.id.number].frames == ends[parent.id.number].frames
    assert ends[child.id.number].frames is not None


def test_who_is_stopped_is_aligned_too(whisper: Whisper, alone: list[Finished]) -> None:
    engine = PlainEngine(whisper[0])
    alignment = Alignment(0, len(PROMPT), FRAMES)
    request = engine.request(clip(0), PROMPT, TOKENS, alignment=alignment, streams=True)
    engine.submit(request)
    while len(engine.deltas) < 9:
        engine.step()
    engine.replica.scheduler.stop(request.id)
    assert request.id in engine.replica.scheduler.outputs.held
    assert not engine.replica.idle
    end = engine.run()[request.id.number]
    weights = attention_of_oracle(whisper, 0, end.token_ids)
    assert end.frames == expected_frames(weights, len(PROMPT) - 1)
    assert end.token_ids == alone[0].token_ids[: len(end.token_ids)]


@pytest.mark.parametrize("parallel", [Parallel(2), Parallel(1, 3), Parallel(2, 2)], ids=str)
def test_ranks_share_the_heads(whisper: Whisper, alone: list[Finished], parallel: Parallel) -> None:
    with RankedEngine(whisper[0], parallel) as engine:
        ends = play(engine)
    assert [end.frames for end in ends] == [end.frames for end in alone]


@pytest.mark.parametrize(
    "alignment", [Alignment(0, 9, 5), Alignment(2, 2, 5), Alignment(0, 1, 51), Alignment(0, 1, 0)]
)
def test_impossible_questions_are_refused(whisper: Whisper, alignment: Alignment) -> None:
    engine = PlainEngine(whisper[0])
    number = engine.submit(engine.request(clip(0), PROMPT, TOKENS, alignment=alignment))
    end = engine.run()[number]
    assert end.state is RequestState.REFUSED
    assert "alignment" in (end.error or "")


def test_without_word_times_nothing_is_kept(whisper: Whisper) -> None:
    engine = PlainEngine(whisper[0], enable_word_timestamps=False)
    assert engine.replica.runner.pool.queries is None
    end = play(engine, count=1)[0]
    assert end.state is RequestState.REFUSED
    assert "enable_word_timestamps" in (end.error or "")


def test_word_times_beside_a_float8_cache(whisper: Whisper) -> None:
    """Keys are read in whatever dtype the cache has; there on a CPU by hand."""
    engine = PlainEngine(whisper[0])
    pool = engine.replica.runner.pool
    assert pool.queries is not None
    rows = torch.tensor([0, 17, 3])
    layers = [torch.randn_like(layer).to(torch.float8_e4m3fn) for layer in pool.layers]
    keys = pool.queries.keys(layers, rows, torch.float32)
    expected = [layers[layer][0].float().flatten(0, 1)[rows][:, head] for layer, head in HEADS]
    assert torch.equal(keys, torch.stack(expected, dim=1))
