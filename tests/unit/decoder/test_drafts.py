"""Tokens with drafts are those without, whoever drafts them, under every rule."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from first_layers import first_layers
from plain_engine import PlainEngine

from antiphon.config.decoding_rules import DecodingRules, TimestampRules
from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.request import Finished

VOCAB = tiny_models.VOCAB
LENGTH = 40
NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 1}

Ask = dict[str, Any]


def asks(count: int = 4, **fields: Any) -> list[Ask]:
    """Of random inputs. What may be looked up in is half of what comes out, see `generate`."""
    rng = np.random.default_rng(3)
    return [
        {
            "payload": rng.integers(3, VOCAB, 9 + 5 * i).astype(np.int32),
            "prompt": [2, *rng.integers(3, VOCAB, i).tolist()],
            "max_tokens": LENGTH,
            **fields,
            "seed": 11 * i,
        }
        for i in range(count)
    ]


def generate(
    folder: Path, requests: list[Ask], timestamps: TimestampRules | None = None, **options: Any
) -> tuple[list[Finished], PlainEngine]:
    engine = PlainEngine(folder, timestamps, kv_page_size=4, num_kv_pages=400, **options)
    numbers = [engine.submit(engine.request(**request)) for request in requests]
    finished = engine.run()
    scheduler = engine.replica.scheduler
    assert scheduler.pages.num_available == scheduler.pages.num_pages
    scheduler.batch.check()
    return [finished[number] for number in numbers], engine


def check_equal(actual: list[Finished], wanted: list[Finished]) -> None:
    for one, other in zip(actual, wanted, strict=True):
        assert one.error is None
        assert one.token_ids == other.token_ids
        assert one.reason == other.reason
        np.testing.assert_allclose(one.token_logprobs, other.token_logprobs, atol=2e-4)
        assert one.restricted_logprob == pytest.approx(other.restricted_logprob, abs=1e-3)
        for own, theirs in zip(one.logprobs, other.logprobs, strict=True):
            assert own.ids == theirs.ids
            assert own.ranks == theirs.ranks


def looked_up(requests: list[Ask], finished: list[Finished]) -> list[Ask]:
    """With something to look up in: what comes out, but for every seventh token."""
    texts = [np.array(one.token_ids, np.int64) for one in finished]
    for text in texts:
        text[::7] = 5
    return [{**request, "lookup_ids": text} for request, text in zip(requests, texts, strict=True)]


@pytest.fixture(scope="module", params=["t5", pytest.param("bart", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    tiny_models.make(request.param, path)
    return path


RULES: dict[str, Ask] = {
    "greedy": {},
    "random": {"params": SamplingParams(temperature=0.8, logprobs=2)},
    "filtered": {"params": SamplingParams(temperature=1.2, top_p=0.7, top_k=20, logprobs=0)},
    "penalties": {
        "params": SamplingParams(
            repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.3, logprobs=1
        )
    },
    "masks": {
        "params": SamplingParams(logprobs=0, logit_bias={7: 3.0}, min_tokens=20),
        "rules": DecodingRules(
            stop_ids=(9, 17, 30), suppress=(11, 13), begin_suppress=(3,), no_repeat_ngram=3,
            bad_words=((5, 6), (8,)), forced_first=4, forced_last=1,
        ),
    },
    "stops": {"rules": DecodingRules(stop_ids=tuple(range(3, 12)))},
    "named": {"params": SamplingParams(logprob_token_ids=(3, 4, 5), logprobs=3)},
}  # fmt: skip


@pytest.mark.parametrize("rules", RULES)
def test_looked_up(folder: Path, rules: str) -> None:
    requests = asks(**RULES[rules])
    wanted, _ = generate(folder, requests)
    actual, engine = generate(folder, looked_up(requests, wanted), speculative_config=NGRAM)
    check_equal(actual, wanted)
    counters = engine.replica.scheduler.counters
    assert 0 < counters["accepted_draft_tokens"] < counters["draft_tokens"]
    assert counters["tokens"] >= sum(len(one.token_ids) for one in actual)


def test_streams_have_every_token_once(folder: Path) -> None:
    requests = asks(streams=True)
    wanted, _ = generate(folder, requests)
    _, engine = generate(folder, looked_up(requests, wanted), speculative_config=NGRAM)
    for number, one in enumerate(wanted):
        assert [token for owner, token in engine.deltas if owner == number] == one.token_ids


def test_beams_run_beside_without_drafts(folder: Path) -> None:
    from antiphon.config.decoding_rules import BeamRules

    beams = asks(1, rules=DecodingRules(stop_ids=(9,), beams=BeamRules(3)))
    requests = [*beams, *asks(2)]
    wanted, _ = generate(folder, requests)
    given = [*beams, *looked_up(requests[1:], wanted[1:])]
    actual, engine = generate(folder, given, speculative_config=NGRAM)
    check_equal(actual, wanted)
    assert engine.replica.scheduler.counters["accepted_draft_tokens"]


def test_no_drafts_while_more_run(folder: Path) -> None:
    requests = asks(4)
    wanted, _ = generate(folder, requests)
    config = {**NGRAM, "disable_by_batch_size": 3}
    actual, engine = generate(
        folder, looked_up(requests, wanted)[:4], speculative_config=config, max_num_seqs=4
    )
    check_equal(actual, wanted)
    assert not engine.replica.scheduler.counters["draft_tokens"]
    few, engine = generate(folder, looked_up(requests, wanted)[:3], speculative_config=config)
    check_equal(few, wanted[:3])
    assert engine.replica.scheduler.counters["accepted_draft_tokens"]


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whisper")
    tiny_models.make("whisper", path)
    return path


@pytest.fixture(scope="module", params=[2, pytest.param(1, marks=pytest.mark.slow)])
def draft(
    request: pytest.FixtureRequest, listening: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The first layers of the same decoder."""
    path = tmp_path_factory.mktemp("draft")
    first_layers(listening, path, request.param)
    return path


TIMES = TimestampRules(first_id=70, no_timestamps_id=66, end_id=60, max_initial=20, last_id=98)
SPEECH_RULES: dict[str, Ask] = {
    **{name: RULES[name] for name in ("greedy", "random", "penalties", "stops")},
    "times": {
        "rules": DecodingRules(
            stop_ids=(60,), suppress=(3, 5), begin_suppress=(60, 9),
            timestamps=TIMES,
        )
    },
}  # fmt: skip


def sounds(count: int = 3, **fields: Any) -> list[Ask]:
    rng = np.random.default_rng(5)
    return [
        {
            "payload": rng.standard_normal(16_000).astype(np.float32),
            "prompt": [61, 62, 65][: 1 + i],
            "max_tokens": LENGTH,
            **fields,
            "seed": 5 * i,
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("rules", SPEECH_RULES)
def test_draft_model(listening: Path, draft: Path, rules: str) -> None:
    requests = sounds(**SPEECH_RULES[rules])
    wanted, _ = generate(listening, requests, TIMES)
    config = {"model": str(draft), "num_speculative_tokens": 3}
    actual, engine = generate(listening, requests, TIMES, speculative_config=config)
    check_equal(actual, wanted)
    counters = engine.replica.scheduler.counters
    assert 0 < counters["accepted_draft_tokens"] < counters["draft_tokens"]


def test_the_model_itself_is_always_right(listening: Path) -> None:
    """Then all drafts hold, so that a step gives one token more than was drafted."""
    requests = sounds()
    wanted, _ = generate(listening, requests, TIMES)
    config = {"model": str(listening), "num_speculative_tokens": 3}
    actual, engine = generate(listening, requests, TIMES, speculative_config=config)
    check_equal(actual, wanted)
    counters = engine.replica.scheduler.counters
    assert counters["accepted_draft_tokens"] == counters["draft_tokens"] > 0
