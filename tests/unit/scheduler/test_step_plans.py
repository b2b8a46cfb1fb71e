"""What plans tell a device: chunks, forks, readouts and page tables, with results that come late
and steps that fail."""

import pytest
from simulated_decoder import (
    END,
    PAGE,
    SimulatedDecoder,
    chosen,
    generated_by,
    make_request,
    make_scheduler,
    start,
    undisturbed,
)

from antiphon.scheduler.generated import Readout
from antiphon.scheduler.request import Finished, Request, RequestState


def run(decoder: SimulatedDecoder, steps: int = 500) -> dict[int, Finished]:
    for _ in range(steps):
        if not decoder.scheduler.requests:
            break
        start(decoder)
        decoder.step()
    assert not decoder.scheduler.requests, "not done"
    assert decoder.scheduler.pages.num_available == decoder.scheduler.pages.num_pages
    outputs = decoder.scheduler.outputs.pop()
    return {end.number: end for output in outputs for end in output.finished}


def seed_that_runs_long(prompt: int = 3) -> int:
    """Of a request that meets no END within 25 tokens."""
    for seed in range(10_000):
        if len(undisturbed(make_request(0, prompt, 25, seed=seed), ord("a"))) == 25:
            return seed
    raise AssertionError


LONG = seed_that_runs_long()


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("known", [1, 2, 5, 6])
def test_a_fork_goes_on_as_its_parent_did(lag: int, known: int) -> None:
    """The page of its last tokens is copied, those before are shared."""
    decoder = SimulatedDecoder(make_scheduler(), lag)
    scheduler, parent = decoder.scheduler, make_request(0, max_tokens=25, seed=LONG)
    start(decoder, parent)
    while parent.slot < 0 or len(generated_by(scheduler, parent.slot)) < known:
        decoder.step()
    twin = make_request(1, max_tokens=25, seed=LONG)
    other = make_request(2, max_tokens=25, seed=LONG + 1)
    free = scheduler.pages.num_available
    for child in (twin, other):
        scheduler.fork(parent, child)
        assert child.state is RequestState.RUNNING
    length = 3 + known
    own_pages = -(-length // PAGE) - (length - 1) // PAGE
    assert free - scheduler.pages.num_available == 2 * own_pages
    prefix = generated_by(scheduler, 0)
    wanted = undisturbed(make_request(2, max_tokens=25, seed=LONG + 1, generated=prefix), ord("a"))
    ends = run(decoder)
    assert ends[0].token_ids == ends[1].token_ids == undisturbed(parent_like(), ord("a"))
    assert ends[2].token_ids == wanted
    assert wanted[:known] == prefix
    assert scheduler.counters["forks"] == 2


def parent_like() -> Request:
    return make_request(0, max_tokens=25, seed=LONG)


def test_a_fork_without_room_or_with_other_settings_waits_in_line() -> None:
    decoder = SimulatedDecoder(make_scheduler(max_num_seqs=1), 1)
    parent = make_request(0, max_tokens=25, seed=LONG)
    start(decoder, parent)
    for _ in range(4):
        decoder.step()
    decoder.scheduler.fork(parent, child := make_request(1, max_tokens=25, seed=LONG))
    assert child.state is RequestState.WAITING
    prefix = list(child.generated)
    assert prefix
    ends = run(decoder)
    assert ends[1].token_ids == ends[0].token_ids
    assert decoder.scheduler.counters["forks"] == 0


def test_a_fork_that_differs_shares_only_what_it_has_in_common() -> None:
    """As a beam that goes on with another token than its parent's."""
    decoder = SimulatedDecoder(make_scheduler(), 0)
    parent = make_request(0, max_tokens=25, seed=LONG, waits_for_host=True)
    start(decoder, parent)
    for _ in range(8):
        decoder.step()
    beam = [*generated_by(decoder.scheduler, 0)[:5], 77, 78]
    child = make_request(1, max_tokens=25, seed=3, generated=list(beam))
    decoder.scheduler.fork(parent, child)
    assert child.state is RequestState.RUNNING
    assert decoder.scheduler.batch.computed[child.slot] == 3 + 5
    wanted = undisturbed(make_request(1, max_tokens=25, seed=3, generated=beam), ord("a"))
    assert run(decoder)[1].token_ids == wanted


def test_forks_of_forks_before_any_of_them_has_run() -> None:
    decoder = SimulatedDecoder(make_scheduler(), 1)
    parent = make_request(0, max_tokens=25, seed=LONG)
    start(decoder, parent)
    for _ in range(5):
        decoder.step()
    scheduler = decoder.scheduler
    scheduler.fork(parent, first := make_request(1, max_tokens=25, seed=LONG))
    scheduler.fork(first, make_request(2, max_tokens=25, seed=LONG))
    scheduler.cancel(first.id)
    scheduler.fork(parent, make_request(3, max_tokens=25, seed=LONG))  # takes what `first` left
    ends = run(decoder)
    for number in (0, 2, 3):
        assert ends[number].token_ids == undisturbed(parent_like(), ord("a"))


@pytest.mark.parametrize("lag", [0, 3])
def test_a_row_that_waits_for_the_host_is_never_looked_past(lag: int) -> None:
    decoder = SimulatedDecoder(make_scheduler(), lag)
    waiting = make_request(0, max_tokens=25, seed=LONG, waits_for_host=True)
    start(decoder, waiting, make_request(1, max_tokens=25, seed=LONG))
    batch = decoder.scheduler.batch
    for _ in range(12):
        decoder.step()
        assert batch.pending[waiting.slot] <= 1
    generated = [len(generated_by(decoder.scheduler, slot)) for slot in (0, 1)]
    assert (generated[0] < generated[1]) == (lag > 0), "the other one keeps its look-ahead"
    ends = run(decoder)
    assert ends[0].token_ids == ends[1].token_ids


@pytest.mark.parametrize("budget", [2, 3, 64])
def test_readouts_of_any_position_come_with_the_end(budget: int) -> None:
    """Of a prompt that runs in pieces, and of what a resumed request had generated."""
    generated = undisturbed(make_request(0, 9, 25, seed=LONG), ord("a"))[:3]
    assert END not in generated
    asked = tuple(Readout(position, 10 + position) for position in (11, 0, 4, 8))
    request = make_request(0, 9, 5, seed=LONG, readouts=asked, generated=list(generated))
    decoder = SimulatedDecoder(make_scheduler(max_batched_tokens=budget), 1)
    start(decoder, request, make_request(1, 5, 10))
    tokens = [*range(5, 14), *generated]
    values = run(decoder)[0].readout_values
    assert sorted(values) == [0, 1, 2, 3]
    for index, (position, token_id) in enumerate(asked):
        likeliest = chosen(LONG, ord("a"), tokens[: position + 1])
        assert values[index] == (-abs(likeliest - token_id), likeliest)


def test_a_readout_outside_the_known_tokens_is_refused() -> None:
    decoder = SimulatedDecoder(make_scheduler(), 0)
    start(decoder, make_request(0, 3, readouts=(Readout(3, 7),)))
    (end,) = run(decoder).values()
    assert end.state is RequestState.REFUSED
    assert "token 7 at position 3 of 3" in end.error
