"""Prompts that begin alike share pages: tokens and log-probabilities as transformers', with hits of
any length, inputs in prompts, forks and preemptions."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prompt_states import StatesEngine, answer, make_states
from tiny_decoders import make_decoder
from tiny_models import VOCAB, make
from transformers import PreTrainedModel

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import resolve
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.fitted import fitted
from antiphon.scheduler.request import Media, Request

LENGTHS = {"a": 7, "b": 19}
OUTPUT = 24
PAGES = 9


class Engine(StatesEngine):
    def __init__(self, folder: Path, states: dict[str, torch.Tensor], **options: Any) -> None:
        super().__init__(folder, states, **{"max_num_seqs": 6, **options})

    @property
    def hits(self) -> int:
        return self.replica.scheduler.counters["prefix_cache_hits"]


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel]:
    folder = tmp_path_factory.mktemp("qwen3")
    return folder, make_decoder("qwen3_tied", folder)


@pytest.fixture(scope="module")
def states(qwen3: tuple[Path, PreTrainedModel]) -> dict[str, torch.Tensor]:
    return make_states(qwen3[1], LENGTHS)


def requests(engine: Engine, seed: int) -> list[Request]:
    """Pairs of prompts that are alike up to odd places, with and without inputs."""
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(0).integers(3, VOCAB, 80)
    made = []
    for alike in (1, 15, 17, 33, 47, 64):
        prompt = [*base[:alike], *rng.integers(3, VOCAB, 5)]
        request = engine.request(None, prompt, OUTPUT)
        if alike > 30:
            places = [("a", 3), ("b", alike - 22)] if alike % 2 else [("a", 20)]
            request.inputs = tuple(
                Media(key, "audio", LENGTHS[key], position=position) for key, position in places
            )
        made.append(request)
    return made


@pytest.fixture(scope="module")
def answers(
    qwen3: tuple[Path, PreTrainedModel], states: dict[str, torch.Tensor]
) -> Callable[[int], list[tuple[list[int], list[float]]]]:
    """By seed, what transformers gives for `requests`."""
    folder, model = qwen3

    @cache
    def get(seed: int) -> list[tuple[list[int], list[float]]]:
        asked = requests(Engine(folder, states), seed)
        return [answer(model, request, states, OUTPUT) for request in asked]

    return get


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kv_page_size": 4, "max_num_batched_tokens": 11, "encode_ahead_tokens": 26},
        {"max_num_seqs": 4, "num_kv_pages": PAGES},  # preempted; what is cached is evicted
    ],
    ids=["whole", "chunks", "preempted"],
)
def test_equal_to_transformers_with_hits_at_odd_lengths(
    options: dict[str, Any],
    qwen3: tuple[Path, PreTrainedModel],
    states: dict[str, torch.Tensor],
    answers: Callable[[int], list[tuple[list[int], list[float]]]],
) -> None:
    engine = Engine(qwen3[0], states, **options)
    for seed in (1, 2):
        submitted = requests(engine, seed)
        for request in submitted:
            engine.submit(request)
        finished = engine.run()
        for request, (tokens, logprobs) in zip(submitted, answers(seed), strict=True):
            end = finished[request.id.number]
            assert end.token_ids == tokens
            own = [token.logprobs[0] for token in end.logprobs]
            np.testing.assert_allclose(own, logprobs, atol=1e-3)
    scheduler = engine.replica.scheduler
    assert engine.hits > (0 if "num_kv_pages" in options else 100)
    if "num_kv_pages" in options:
        assert scheduler.counters["preemptions"] > 0
    assert scheduler.encodes.tokens == 0
    assert scheduler.pages.num_available == scheduler.pages.num_pages
    scheduler.pages.check()
    scheduler.batch.check()


def test_forks_of_sequences_with_shared_pages(
    qwen3: tuple[Path, PreTrainedModel], states: dict[str, torch.Tensor]
) -> None:
    folder, model = qwen3
    engine = Engine(folder, states)
    first, parent, child = (requests(engine, seed=1)[3] for _ in range(3))
    engine.submit(first)
    engine.run()
    engine.submit(parent)
    for _ in range(4):
        engine.step()
    engine.replica.scheduler.fork(parent, child)
    finished = engine.run()
    assert engine.replica.scheduler.counters["forks"] == 1
    assert engine.hits == 32
    wanted = answer(model, parent, states, OUTPUT)[0]
    assert [finished[each.id.number].token_ids for each in (parent, child)] == [wanted] * 2


def test_the_option(
    qwen3: tuple[Path, PreTrainedModel], states: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    engine = Engine(qwen3[0], states, enable_prefix_caching=False)
    for _ in range(2):
        engine.submit(requests(engine, seed=1)[5])
        engine.run()
    assert engine.hits == 0
    make("bart", tmp_path)
    config = resolve(str(tmp_path), {"device": "cpu", "enable_prefix_caching": True})
    model = ModelConfig.load(config.model)
    with pytest.raises(ConfigurationError, match="depend on an encoder's states"):
        fitted(model, config)
    off = resolve(str(tmp_path), {"device": "cpu", "enable_prefix_caching": False})
    assert fitted(model, off) == off
