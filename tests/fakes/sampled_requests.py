"""Requests that ask for every kind of sampling, and what of their ends is the same in any batch."""

import numpy as np
from plain_engine import PlainEngine

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.request import Finished, Request, RequestState

Kind = tuple[SamplingParams, DecodingRules]
PLAIN = DecodingRules()
KINDS: list[Kind] = [
    (SamplingParams(), PLAIN),
    (SamplingParams(logprobs=0), DecodingRules(suppress=(5, 6), begin_suppress=(7,))),
    (SamplingParams(logprobs=3), PLAIN),
    (SamplingParams(logprob_token_ids=[4, 9, 30]), DecodingRules(min_tokens=4, stop_ids=(8, 20))),
    (SamplingParams(temperature=1.0), PLAIN),
    (SamplingParams(temperature=1.5, logprobs=2), DecodingRules(forced_first=11, forced_last=12)),
    (SamplingParams(temperature=0.9, top_k=20, top_p=0.8, min_p=0.01), PLAIN),
    (SamplingParams(repetition_penalty=1.4, frequency_penalty=0.5, logprobs=0), PLAIN),
    (SamplingParams(logit_bias={3: 9.0, 40: 8.0, 41: 7.0}), DecodingRules(no_repeat_ngram=2)),
    (SamplingParams(), DecodingRules(bad_words=((13, 14), (21, 22, 23)))),
]


def request(engine: PlainEngine, kind: int, number: int) -> Request:
    """Number `number` of those of `KINDS[kind]`; its input, length and seed follow from both."""
    rng = np.random.default_rng([kind, number])
    params, rules = KINDS[kind]
    text = rng.integers(3, 90, int(rng.integers(2, 8))).astype(np.int32)
    length = int(rng.integers(3, 9))
    return engine.request(text, [2], length, rules, params=params, seed=int(rng.integers(1000)))


def check_same(actual: Finished, expected: Finished) -> None:
    """What may not depend on who ran beside a request."""
    assert actual.state is expected.state is RequestState.DONE
    assert actual.token_ids == expected.token_ids
    assert [item.ids for item in actual.logprobs] == [item.ids for item in expected.logprobs]
    assert [item.ranks for item in actual.logprobs] == [item.ranks for item in expected.logprobs]
    for one, other in (
        (actual.token_logprobs, expected.token_logprobs),
        ([actual.restricted_logprob], [expected.restricted_logprob]),
        *(
            (a.logprobs, b.logprobs)
            for a, b in zip(actual.logprobs, expected.logprobs, strict=True)
        ),
    ):
        np.testing.assert_allclose(one, other, atol=1e-3)
