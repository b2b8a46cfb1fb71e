"""Prompts are checked within the time of their request."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from antiphon.config.errors import RequestExpired
from antiphon.config.sampling import SamplingParams
from antiphon.serve.prompt_tokens import checked

BODY: Any = SimpleNamespace(source_language=None, target_language=None)


def model(seconds: float) -> Any:
    """Reading a prompt takes so long."""

    async def run_in_thread(work: Callable[[], object]) -> object:
        await asyncio.sleep(seconds)
        return work()

    return SimpleNamespace(engine=SimpleNamespace(run_in_thread=run_in_thread))


def test_reading_a_prompt_ends_at_the_deadline() -> None:
    with pytest.raises(RequestExpired, match=r"0\.01 s"):
        asyncio.run(checked(model(5.0), [], SamplingParams(), BODY, "prompt", 0.01))


def test_what_is_left_of_the_time_is_passed_on() -> None:
    ready, left = asyncio.run(checked(model(0.05), [], SamplingParams(), BODY, "prompt", 10.0))
    assert ready == []
    assert 9.0 < left <= 9.95
