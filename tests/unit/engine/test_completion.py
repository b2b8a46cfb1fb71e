"""From the end of a request to its output: what counts in the average log-probability."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from played_model import END, text_of
from simulated_decoder import make_request

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.engine.completion import completion_output
from antiphon.engine.open_request import OpenRequest
from antiphon.inputs.detokenizer import SlowDecoder, TextStream
from antiphon.scheduler.request import Finished, RequestMetrics, RequestState

INPUTS: Any = SimpleNamespace(decode=lambda ids, skip_special_tokens=True: text_of(ids))


@pytest.mark.parametrize(
    ("tokens", "begun", "stop", "counted", "shown"),
    [
        ([5, 6, 7, END], 0, (), 4, 4),
        ([5, 6, 7], 0, (), 4, 3),  # the length ended it
        ([5, 6, 7, END], 2, (), 6, 4),
        # Behind the stop string two more were computed, which are part of the sum.
        ([5, 6, 7, 8], 0, (text_of([6]),), 5, 2),
        ([5, 6, 7, 8], 3, (text_of([6]),), 8, 2),
        ([5, 6, 7, END], 3, (text_of([6]),), 7, 2),
    ],
)
def test_the_average_is_over_all_that_is_summed(
    tokens: list[int], begun: int, stop: tuple[str, ...], counted: int, shown: int
) -> None:
    params = SamplingParams(stop=stop)
    rules = DecodingRules(stop_ids=(END,))
    request = make_request(0, prompt=5, rules=rules, params=params, begun=begun)
    loop = asyncio.new_event_loop()
    opened = OpenRequest(
        request, (), loop.create_future(),
        new_text=lambda: TextStream(SlowDecoder(text_of), stop, 0, include_stop=False),
    )  # fmt: skip
    loop.close()
    cast(TextStream, opened.text).add([token for token in tokens if token != END])
    logprobs = [-1.0] * len(tokens)
    end = Finished(
        0, RequestState.DONE, tokens, "stop" if tokens[-1] == END else "length", None, [],
        RequestMetrics(0.0), logprobs, restricted_logprob=-12.0,
    )  # fmt: skip
    output = completion_output(INPUTS, opened, end, 0)
    assert len(output.token_ids) == shown
    assert output.avg_logprob == pytest.approx(-12.0 / counted)
