"""A request for words that goes on elsewhere runs once more there, or nothing could be aligned."""

import asyncio
from dataclasses import replace

import numpy as np

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.engine.open_request import OpenRequest
from antiphon.scheduler.alignment import Alignment
from antiphon.scheduler.request import Request, RequestId


def test_the_last_token_is_sampled_again() -> None:
    rules, params = DecodingRules(stop_ids=(9,)), SamplingParams()
    plain = Request(RequestId("a", 0), np.array([1]), (), params, rules, max_tokens=3, seed=0)
    for request, generated in (
        (plain, [5, 6, 9]),
        (replace(plain, alignment=Alignment(0, 1, 4)), [5, 6]),
    ):
        loop = asyncio.new_event_loop()
        opened = OpenRequest(request, (), loop.create_future(), is_stream=True)
        opened.token_ids = [5, 6, 9]
        opened.begin_again(RequestId("a", 1), 0.0)
        assert opened.request.generated == generated
        assert opened.token_ids == [5, 6, 9]
        loop.close()
