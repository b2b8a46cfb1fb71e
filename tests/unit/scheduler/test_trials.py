"""Suspects of several frontends take turns on a decoder."""

import numpy as np
import pytest

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.scheduler.request import Request, RequestId, Trial
from antiphon.scheduler.trials import ANNOUNCED_SECONDS, RequestTrials, trial_mark


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def trials(clock: Clock) -> RequestTrials:
    return RequestTrials(clock)


def suspect(frontend: str, trial: Trial = Trial.FIRST_TOKEN, known: int = 0) -> Request:
    request = Request(
        RequestId(frontend, 0), np.array([1]), (), SamplingParams(), DecodingRules(), 8, 0
    )
    request.trial, request.generated = trial, [7] * known
    return request


def add(trials: RequestTrials, request: Request) -> None:
    trials.add(request.id, request)


def begins(trials: RequestTrials, clock: Clock) -> Request | None:
    assert trials.due() is None
    clock.now += ANNOUNCED_SECONDS
    return trials.due()


def test_one_is_named_before_it_begins(trials: RequestTrials, clock: Clock) -> None:
    assert not trials
    assert trials.mark == 0
    add(trials, first := suspect("f"))
    assert trials
    assert trials.due() is None
    assert trials.mark == trial_mark(first.id)
    clock.now += ANNOUNCED_SECONDS / 2
    assert trials.due() is None
    clock.now += ANNOUNCED_SECONDS
    assert trials.due() is first
    assert trials.due() is None


def test_the_next_one_begins_after_the_first_token_of_the_one_before(
    trials: RequestTrials, clock: Clock
) -> None:
    first, second = suspect("f", known=2), suspect("g")
    add(trials, first)
    add(trials, second)
    assert begins(trials, clock) is first
    assert begins(trials, clock) is None
    assert trials.mark == trial_mark(first.id)
    first.generated.append(8)
    assert begins(trials, clock) is second
    second.generated.append(8)
    assert trials.due() is None
    assert trials.mark == 0
    assert not trials


def test_a_strict_trial_lasts_to_the_end(trials: RequestTrials, clock: Clock) -> None:
    first, second = suspect("f", Trial.END), suspect("g")
    add(trials, first)
    add(trials, second)
    assert begins(trials, clock) is first
    first.generated.append(8)
    assert begins(trials, clock) is None
    trials.leave(first.id)
    assert begins(trials, clock) is second


def test_who_ends_before_its_turn_is_forgotten(trials: RequestTrials, clock: Clock) -> None:
    first, second = suspect("f"), suspect("g")
    add(trials, first)
    add(trials, second)
    assert trials.due() is None
    trials.leave(second.id)
    trials.leave(first.id)
    assert begins(trials, clock) is None
    assert not trials
