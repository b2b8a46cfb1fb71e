"""A server of a few lines under a client: it gives the answers that a test lays down."""

from collections.abc import Callable
from typing import Any

import httpx

from antiphon.client import AsyncClient
from antiphon.client.policy import Policy

QUICK = Policy(pause=0.001)
DONE = {"choices": [{"text": "seven", "finish_reason": "stop"}], "usage": {"prompt_tokens": 4}}
Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer, policy: Policy = QUICK, **options: Any) -> AsyncClient:
    return AsyncClient("server", policy=policy, transport=httpx.MockTransport(answer), **options)


def played(*steps: httpx.Response | Exception) -> tuple[Answer, list[httpx.Request]]:
    """Answers in turn, and what was asked."""
    left, requests = list(steps), []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        step = left.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    return answer, requests


def failing(status: int, **headers: str) -> httpx.Response:
    detail = {"message": "no", "type": "t", "param": "n", "code": "c"}
    return httpx.Response(status, json={"error": detail}, headers=headers)
