"""Hidden states that stand in a decoder's prompt, against transformers' `inputs_embeds`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_engine import PlainEngine
from prompt_states import StatesEngine, answer, make_states
from tiny_decoders import make_decoder
from tiny_models import VOCAB
from transformers import PreTrainedModel

from antiphon.scheduler.request import Media, Request

RNG = np.random.default_rng(3)
# Length of the prompt, and (key, position) of its inputs.
PROMPTS: list[tuple[int, list[tuple[str, int]]]] = [
    (30, [("a", 4)]),
    (41, [("a", 0), ("b", 20)]),
    (25, []),
    (37, [("b", 30), ("c", 9)]),
    (60, [("a", 3), ("a", 40)]),  # twice in one prompt
    (12, [("c", 1)]),
]
LENGTHS = {"a": 7, "b": 5, "c": 11}
OUTPUT = 12


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel]:
    folder = tmp_path_factory.mktemp("llama")
    return folder, make_decoder("llama", folder)


def requests(engine: StatesEngine) -> list[Request]:
    made = []
    for length, inputs in PROMPTS:
        request = engine.request(None, RNG.integers(3, VOCAB, length).tolist(), OUTPUT)
        request.inputs = tuple(
            Media(key, "audio", LENGTHS[key], position=position) for key, position in inputs
        )
        made.append(request)
    return made


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_num_batched_tokens": 16, "kv_page_size": 4},  # inputs are cut by chunks
        {"max_num_seqs": 4, "num_kv_pages": 9},  # preempted sequences put their inputs in anew
        {"encode_ahead_tokens": 8},  # inputs wait for each other
    ],
    ids=["whole", "chunks", "preempted", "encoded late"],
)
def test_inputs_in_prompts_equal_inputs_embeds(
    options: dict[str, Any], llama: tuple[Path, PreTrainedModel]
) -> None:
    folder, model = llama
    states = make_states(model, LENGTHS)
    engine = StatesEngine(folder, states, **{"max_num_seqs": 8, **options})
    submitted = requests(engine)
    for request in submitted:
        engine.submit(request)
    finished = engine.run()
    for number, request in enumerate(submitted):
        tokens, logprobs = answer(model, request, states, OUTPUT)
        assert finished[number].token_ids == tokens
        own = [token.logprobs[0] for token in finished[number].logprobs]
        np.testing.assert_allclose(own, logprobs, atol=1e-3)
    scheduler = engine.replica.scheduler
    if not options:
        assert engine.encoded == len(LENGTHS), "an input of several requests is encoded once"
    if "num_kv_pages" in options:
        assert scheduler.counters["preemptions"] > 0
    assert scheduler.encodes.tokens == 0
    assert len(engine.replica.runner.arena) == len(scheduler.encodes.kept)
    assert scheduler.pages.num_available == scheduler.pages.num_pages
    scheduler.batch.check()


def test_a_decoder_alone_keeps_no_room_for_states(llama: tuple[Path, PreTrainedModel]) -> None:
    """Its longest prompt may have 100,000 tokens."""
    folder, _ = llama
    engine = PlainEngine(folder)
    assert len(engine.replica.runner.arena.states) == 0
    number = engine.submit(engine.request(None, [3, 4, 5], OUTPUT))
    assert engine.run()[number].error is None


def test_a_cancelled_request_lets_its_states_go(llama: tuple[Path, PreTrainedModel]) -> None:
    """In the middle of an input, of which another request still needs the states."""
    folder, model = llama
    states = make_states(model, LENGTHS)
    engine = StatesEngine(folder, states, max_num_seqs=8, max_num_batched_tokens=8)
    first, second = (requests(engine)[index] for index in (0, 4))
    engine.submit(first)
    engine.submit(second)
    for _ in range(3):  # asked for, encoded, and part of the first prompt
        engine.step()
    assert len(engine.replica.runner.arena) == 1
    engine.replica.scheduler.cancel(first.id)
    finished = engine.run()
    assert finished[second.id.number].token_ids == answer(model, second, states, OUTPUT)[0]
    assert engine.replica.scheduler.encodes.tokens == 0
    engine.submit(third := requests(engine)[4])  # the states are still here
    assert engine.run()[third.id.number].token_ids == answer(model, third, states, OUTPUT)[0]
    assert engine.encoded == 1


def test_a_failed_step_drops_what_it_should_have_taken(
    llama: tuple[Path, PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = llama
    engine = StatesEngine(folder, make_states(model, LENGTHS))
    request = requests(engine)[0]
    engine.submit(request)
    runner = engine.replica.runner

    def broken(plan: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(runner, "launch", broken)
    finished = engine.run()
    assert finished[request.id.number].error is not None
    engine.step()
    assert len(runner.arena) == 0
    assert engine.replica.scheduler.encodes.tokens == 0
