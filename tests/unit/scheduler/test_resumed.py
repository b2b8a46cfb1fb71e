"""A request that goes on elsewhere behind the tokens it has gives the same tokens; one beside hours
of a recording does not wait for these."""

from typing import Any

import numpy as np
import pytest
from plain_engine import PlainEngine

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.kv.pages import PagePool
from antiphon.scheduler.limits import Limits
from antiphon.scheduler.plan import StepResult
from antiphon.scheduler.request import Incarnation, Media, Request, RequestId, RequestState
from antiphon.scheduler.scheduler import Scheduler
from antiphon.scheduler.worker_load import WorkerState

TEXT = np.array([7, 12, 5, 9], np.int32)
PARAMS = {
    "greedy": SamplingParams(logprobs=1),
    "drawn": SamplingParams(temperature=0.9, top_p=0.95, seed=5, logprobs=1),
    "penalties": SamplingParams(
        temperature=0.7, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2, seed=3
    ),
    "min_tokens": SamplingParams(min_tokens=9, logprobs=0),
}


@pytest.fixture(scope="module")
def engine(checkpoints: Any) -> PlainEngine:
    return PlainEngine(checkpoints("t5")[0], max_num_seqs=4, max_model_len=40, kv_page_size=8)


def run(engine: PlainEngine, params: SamplingParams, generated: list[int]) -> Any:
    rules = DecodingRules(stop_ids=(1,), min_tokens=params.min_tokens, no_repeat_ngram=3)
    request = engine.request(TEXT, [0], 12, rules, params=params, seed=5, streams=True)
    request.generated, request.attempt = generated, int(bool(generated))
    number = engine.submit(request)
    engine.deltas.clear()
    return engine.run()[number]


@pytest.mark.parametrize("name", PARAMS)
@pytest.mark.parametrize("count", [1, 4, 11])
def test_it_goes_on_as_if_undisturbed(engine: PlainEngine, name: str, count: int) -> None:
    whole = run(engine, PARAMS[name], [])
    count = min(count, len(whole.token_ids) - 1)
    resumed = run(engine, PARAMS[name], whole.token_ids[:count])
    assert (resumed.token_ids, resumed.reason) == (whole.token_ids, whole.reason)
    assert [token for _, token in engine.deltas] == whole.token_ids[count:], "only new ones"
    for new, old in zip(resumed.logprobs, whole.logprobs[count:], strict=True):
        assert new.ids == old.ids
        assert new.ranks == old.ranks
        np.testing.assert_allclose(new.logprobs, old.logprobs, atol=1e-4)


def make_scheduler(**changes: int) -> Scheduler:
    limits = {
        "max_num_seqs": 4, "max_batched_tokens": 64, "max_len": 40, "max_cross_len": 40,
        "encode_ahead_tokens": 60, "max_waiting": 1000, "page_size": 4,
    }  # fmt: skip
    return Scheduler(Limits(**{**limits, **changes}), PagePool(64))


def make_request(number: int, generated: list[int], caller: int = 0, tokens: int = 5) -> Request:
    media = Media(f"key{number}", "text", 10, None)
    return Request(
        RequestId("f", number), np.arange(2, 4), (media,), SamplingParams(),
        DecodingRules(stop_ids=(1,)), tokens, 0, caller=caller, generated=generated,
    )  # fmt: skip


@pytest.mark.parametrize(("generated", "reason"), [([7, 7, 1], "stop"), ([7] * 5, "length")])
def test_one_that_lacks_only_its_end_ends_at_once(generated: list[int], reason: str) -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request(0, generated))
    (output,) = scheduler.outputs.pop()
    (end,) = output.finished
    assert (end.state, end.reason, end.token_ids) == (RequestState.DONE, reason, generated)
    assert scheduler.next_encodes() == []


def test_a_clip_waits_at_most_for_the_running_batch() -> None:
    """Beside a recording of six hours: 720 windows of one caller."""
    scheduler = make_scheduler()
    for number in range(720):
        scheduler.add(make_request(number, [], caller=1))
    clip = RequestId("f", 1000)
    ended: list[int] = []
    for step in range(60):
        if step == 20:
            scheduler.add(make_request(1000, [], caller=2))
        for media, _ in scheduler.next_encodes():
            scheduler.encoded(media.key)
        plan = scheduler.step()
        assert plan is not None
        scheduler.postprocess(plan, StepResult(np.full(len(plan.slots), 7)))
        ended += [end.number for output in scheduler.outputs.pop() for end in output.finished]
        if step >= 20 and clip not in scheduler.requests:
            break
    assert step - 20 <= 2 * 5 + 1, "the running batch, and then its own tokens"
    assert 1000 in ended


def test_a_frontend_that_is_gone_leaves_nothing() -> None:
    scheduler = make_scheduler()
    for number in range(6):
        scheduler.add(make_request(number, []))
    for media, _ in scheduler.next_encodes():
        scheduler.encoded(media.key)
    scheduler.step()
    assert scheduler.load()["tokens"] == 60
    scheduler.detach("f")
    assert scheduler.outputs.pop() == []
    assert not scheduler.requests
    assert scheduler.load()["tokens"] == 0
    assert scheduler.pages.num_available == 64


def test_work_of_a_lost_encoder_is_asked_for_elsewhere() -> None:
    scheduler = make_scheduler()
    scheduler.set_encoders({"e0": 1, "e1": 1})
    scheduler.encodes.pool.report([WorkerState("e1", "encoder", 1, load={"tokens": 1000})])
    for number in range(3):
        request = make_request(number, [])
        request.encoder = "e0"
        scheduler.add(request)
    assert [encoder for _, encoder in scheduler.next_encodes()] == ["e0"] * 3
    scheduler.encoded("key0")
    scheduler.encoder_lost("e0")
    assert [(m.key, e) for m, e in scheduler.next_encodes()] == [("key1", "e1"), ("key2", "e1")]
    scheduler.set_encoders({})
    assert scheduler.next_encodes() == []
    assert not scheduler.idle  # one can run
    scheduler.set_encoders({"e0": 2})
    assert len(scheduler.next_encodes()) == 2, "one death, and no word of another"
    scheduler.set_encoders({"e0": 3})
    assert [encoder for _, encoder in scheduler.next_encodes()] == ["e0"]  # suspects, on trial
    scheduler.encoded("key1")
    assert [encoder for _, encoder in scheduler.next_encodes()] == ["e0"]


def test_old_lives_of_an_encoder_have_no_say() -> None:
    scheduler = make_scheduler()
    scheduler.set_encoders({"": 2})
    scheduler.add(make_request(0, []))
    scheduler.next_encodes()
    scheduler.encode_failed("key0", "an old complaint", Incarnation("", 1))
    scheduler.withdrawn(["key0"], Incarnation("", 1))
    assert scheduler.requests
    scheduler.encode_failed("key0", "no", Incarnation("", 2))
    assert not scheduler.requests
