"""What is computed behind a stop string and thrown away. Only the frontend knows a sequence's text
(but for searches), so the decoder goes on until the frontend's `Stop` has come."""

import pytest
from simulated_decoder import SimulatedDecoder, generated_by, make_request, make_scheduler, start

from antiphon.scheduler.plan import StepPlan, StepResult
from antiphon.scheduler.request import RequestState

LONG = 3  # a seed whose sequence does not end early
STOP_AT = 6  # tokens, with the last of which a text meets a stop string


class CountingDecoder(SimulatedDecoder):
    """Counts the tokens that it has computed."""

    computed = 0

    def run(self, plan: StepPlan) -> StepResult | None:
        self.computed += int(plan.samples.sum())
        return super().run(plan)


def tokens_computed(lag: int, way: int, waits_for_host: bool) -> int:
    """How many, of a sequence that is stopped because of its text.

    `lag`: steps that are launched before a token is on the host. `way`: steps that the token takes
    to the frontend, and its `Stop` back.
    """
    decoder = CountingDecoder(make_scheduler(), lag)
    request = make_request(0, max_tokens=25, seed=LONG, waits_for_host=waits_for_host)
    start(decoder, request)
    while request.slot < 0 or len(generated_by(decoder.scheduler, request.slot)) < STOP_AT:
        decoder.step()
    for _ in range(way):
        decoder.step()
    decoder.scheduler.stop(request.id)
    assert request.state is RequestState.DONE
    return decoder.computed


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("way", [0, 1, 2])
def test_a_token_for_each_step_ahead_and_on_the_way_is_computed_for_nothing(
    lag: int, way: int
) -> None:
    computed = tokens_computed(lag, way, waits_for_host=False)
    assert computed - STOP_AT == lag + way


@pytest.mark.parametrize("way", [0, 2])
def test_to_wait_for_the_host_would_save_no_more_than_the_look_ahead(way: int) -> None:
    computed = tokens_computed(3, way, waits_for_host=True)
    assert computed - STOP_AT <= way
