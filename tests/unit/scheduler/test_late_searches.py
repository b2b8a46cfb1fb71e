"""Searches whose texts cannot be made yet wait; nobody else does."""

from collections.abc import Callable

from simulated_decoder import END, make_request, make_scheduler

from antiphon.config.decoding_rules import BeamRules, DecodingRules
from antiphon.config.errors import CheckpointError
from antiphon.config.sampling import SamplingParams
from antiphon.inputs.detokenizer import SlowDecoder, TextStream
from antiphon.scheduler.request import Finished, Request, RequestState
from antiphon.scheduler.scheduler import Scheduler


class Tokenizer:
    """Comes when the test says so, or turns out to be broken."""

    def __init__(self) -> None:
        self.is_here = self.is_broken = False

    def __call__(self, params: SamplingParams) -> TextStream | None:
        if self.is_broken:
            raise CheckpointError("no tokenizer is there")
        decoder = SlowDecoder(lambda ids: "x" * len(ids))
        return TextStream(decoder, tuple(params.stop), 0, False) if self.is_here else None


def search(number: int) -> Request:
    rules = DecodingRules(stop_ids=(END,), beams=BeamRules(2, 1, False))
    return make_request(number, rules=rules, params=SamplingParams(stop=["y"]))


def ends(scheduler: Scheduler) -> dict[int, Finished]:
    return {end.number: end for output in scheduler.outputs.pop() for end in output.finished}


def asked(scheduler: Scheduler) -> list[str]:
    return [command.media.key for command in scheduler.next_encodes()]


def begun(tokenizer: Callable[[SamplingParams], TextStream | None]) -> Scheduler:
    """A search and, behind it, a plain request."""
    scheduler = make_scheduler(new_text=tokenizer)
    scheduler.add(search(0))
    scheduler.add(make_request(1, key="b"))
    return scheduler


def test_others_begin_while_a_search_waits_for_the_tokenizer() -> None:
    tokenizer = Tokenizer()
    scheduler = begun(tokenizer)
    assert asked(scheduler) == ["b"]
    tokenizer.is_here = True
    assert asked(scheduler) == ["a"]
    assert not asked(scheduler)
    assert not ends(scheduler)
    assert len(scheduler.requests) == 2


def test_one_that_ends_meanwhile_never_begins() -> None:
    tokenizer = Tokenizer()
    scheduler = begun(tokenizer)
    (request_id,) = (each for each in scheduler.requests if each.number == 0)
    scheduler.cancel(request_id)
    assert ends(scheduler)[0].state is RequestState.CANCELLED
    tokenizer.is_here = True
    assert asked(scheduler) == ["b"]
    assert not ends(scheduler)


def test_a_broken_tokenizer_ends_the_searches_alone() -> None:
    tokenizer = Tokenizer()
    scheduler = begun(tokenizer)
    tokenizer.is_broken = True
    scheduler.add(search(2))  # known by now
    assert asked(scheduler) == ["b"]
    found = ends(scheduler)
    assert found.keys() == {0, 2}
    for end in found.values():
        assert end.state is RequestState.REFUSED
        assert end.error is not None
        assert "no tokenizer is there" in end.error
    assert [each.number for each in scheduler.requests] == [1]
