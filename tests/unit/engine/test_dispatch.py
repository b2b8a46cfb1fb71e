"""Requests on their way to decoders, and their inputs on their way to encoders."""

import asyncio
import weakref

import pytest
from dispatching import ROUTE, Sent, in_loop, request, sound, text

from antiphon.actors.messages import (
    Cancel,
    Input,
    InputGone,
    NeedInput,
    Stop,
    Submit,
)
from antiphon.engine import dispatch
from antiphon.engine.dispatch import Dispatcher
from antiphon.scheduler.router import Route


@in_loop
async def test_an_input_goes_once_to_its_encoder_and_the_requests_in_one_message(
    dispatcher: Dispatcher, sent: Sent
) -> None:
    media = sound()
    for number in range(3):
        dispatcher.submit(ROUTE, request(number), [media])
    await asyncio.sleep(0)
    (to_encoder, first), (to_decoder, second) = sent.take()
    assert (to_encoder, to_decoder) == ROUTE
    assert isinstance(first, Input)
    assert first.array is media.payload
    assert isinstance(second, Submit)
    assert [each.id.number for each in second.requests] == [0, 1, 2]


@in_loop
async def test_an_input_is_let_go_on_both_sides_when_its_last_request_is_cancelled(
    dispatcher: Dispatcher, sent: Sent
) -> None:
    media, requests = sound(), [request(0), request(1)]
    for each in requests:
        dispatcher.submit(ROUTE, each, [media])
    await asyncio.sleep(0)
    array = weakref.ref(media.payload)
    sent.take()
    del media
    dispatcher.cancel(ROUTE, requests[0])
    dispatcher.release(requests[0])
    assert [message for _, message in sent.take()] == [Cancel(requests[0].id)]
    assert array() is not None
    dispatcher.cancel(ROUTE, requests[1])
    dispatcher.release(requests[1])
    await asyncio.sleep(0)
    gone = [("decoder-0", Cancel(requests[1].id)), ("encoder-0", InputGone("f", ("k",)))]
    assert sent.take() == gone
    assert array() is None
    dispatcher.release(requests[1])  # its end comes after all
    assert sent.take() == []


@in_loop
async def test_ends_of_one_turn_go_in_one_message_to_each_encoder(
    dispatcher: Dispatcher, sent: Sent
) -> None:
    requests = [request(number, f"key {number}") for number in range(3)]
    for each in requests:
        dispatcher.submit(ROUTE, each, [sound(each.inputs[0].key)])
    await asyncio.sleep(0)
    sent.take()
    for each in requests:
        dispatcher.release(each)
    assert sent.take() == []
    await asyncio.sleep(0)
    assert sent.take() == [("encoder-0", InputGone("f", ("key 0", "key 1", "key 2")))]
    assert len(dispatcher.inputs) == 0


@in_loop
async def test_the_word_that_an_input_is_gone_never_follows_the_input_sent_anew(
    dispatcher: Dispatcher, sent: Sent
) -> None:
    for number, media in enumerate((sound(), text("k", 1))):
        dispatcher.submit(ROUTE, first := request(2 * number), [media])
        dispatcher.release(first)
        dispatcher.submit(ROUTE, second := request(2 * number + 1), [media])
        await asyncio.sleep(0)
        kind = type(sent.messages[0][1]).__name__
        assert sent.kinds == [kind, "InputGone", kind, "Submit"]
        dispatcher.release(second)
        dispatcher.inputs.use("k", media.payload, 9)
        dispatcher.answer(NeedInput("encoder-0", ("k",)))
        assert sent.kinds == ["InputGone", "Input"]
        dispatcher.let_go("k", 9)
        await asyncio.sleep(0)
        sent.take()


@in_loop
async def test_who_asks_for_an_input_gets_it_or_is_told_that_it_is_gone(
    dispatcher: Dispatcher, sent: Sent
) -> None:
    media = sound("held")
    dispatcher.submit(ROUTE, each := request(0, "held"), [media])
    await asyncio.sleep(0)
    sent.take()
    dispatcher.answer(NeedInput("encoder-1", ("held", "unknown")))
    (first, answer), last = sent.take()
    assert first == "encoder-1"
    assert isinstance(answer, Input)
    assert answer.array is media.payload
    assert last == ("encoder-1", InputGone("f", ("unknown",)))
    dispatcher.release(each)
    await asyncio.sleep(0)
    assert {worker for worker, _ in sent.take()} == {"encoder-0", "encoder-1"}


@in_loop
async def test_every_encoder_that_may_hold_an_input_in_vain_is_told(
    dispatcher: Dispatcher, sent: Sent
) -> None:
    """Two samples of one prompt, on the way through two encoders."""
    first, second = request(0), request(1)
    dispatcher.submit(ROUTE, first, [media := sound()])
    dispatcher.submit(ROUTE._replace(encoder="encoder-1"), second, [media])
    await asyncio.sleep(0)
    assert sent.kinds.count("Input") == 1  # the second encoder asks for it if it needs it
    dispatcher.answer(NeedInput("encoder-1", ("k",)))
    sent.take()
    dispatcher.release(first)
    await asyncio.sleep(0)
    assert sent.take() == []
    dispatcher.release(second)
    await asyncio.sleep(0)
    gone = InputGone("f", ("k",))
    assert sorted(sent.take()) == [("encoder-0", gone), ("encoder-1", gone)]


@in_loop
async def test_inputs_run_ahead_of_an_encoder_only_so_far(
    dispatcher: Dispatcher, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "AHEAD_BYTES", 175_000)
    requests = [request(number, f"key {number}") for number in range(4)]
    for each in requests:
        dispatcher.submit(ROUTE, each, [sound(each.inputs[0].key)])
    assert sent.kinds == ["Input", "Input"]  # 200,000 bytes
    dispatcher.release(requests[0])
    dispatcher.submit(ROUTE, request(9, "new"), [sound("new")])
    assert sent.kinds == ["Input"]


@in_loop
async def test_requests_that_cannot_travel_fail_alone(
    dispatcher: Dispatcher, sent: Sent, not_sent: list[tuple[int, str]]
) -> None:
    sent.fails = lambda message: (
        (isinstance(message, Submit) and any(each.id.number == 1 for each in message.requests))
        or (isinstance(message, Input) and message.key == "bad")
    )
    for number, key in enumerate(("k", "k", "k", "bad")):
        dispatcher.submit(ROUTE, request(number, key), [sound(key)])
    await asyncio.sleep(0)
    assert not_sent == [(3, "cannot travel"), (1, "cannot travel")]
    submitted = [message for _, message in sent.take() if isinstance(message, Submit)]
    assert [each.id.number for message in submitted for each in message.requests] == [0, 2]


@in_loop
async def test_a_message_that_cannot_be_sent_never_raises_into_the_event_loop(
    dispatcher: Dispatcher, sent: Sent
) -> None:
    dispatcher.submit(ROUTE, each := request(0), [sound()])
    await asyncio.sleep(0)
    sent.fails = lambda message: True
    dispatcher.stop(ROUTE, each)
    dispatcher.answer(NeedInput("encoder-0", ("k",)))
    dispatcher.cancel(ROUTE, each)
    dispatcher.release(each)
    assert len(dispatcher.inputs) == 0


@in_loop
async def test_a_cancelled_request_is_sent_before_the_word_that_ends_it(
    dispatcher: Dispatcher, sent: Sent
) -> None:
    dispatcher.submit(ROUTE, each := request(0), [sound()])
    dispatcher.cancel(ROUTE, each)
    dispatcher.release(each)
    await asyncio.sleep(0)
    assert sent.kinds == ["Input", "Submit", "Cancel", "InputGone"]
    dispatcher.stop(ROUTE, each)
    assert sent.take() == [("decoder-0", Stop(each.id))]


@in_loop
async def test_a_decoder_learns_which_encoder_has_the_input(
    dispatcher: Dispatcher, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher.submit(ROUTE, first := request(0), [sound()])
    dispatcher.submit(Route("encoder-1", "decoder-1"), second := request(1), [sound()])
    monkeypatch.setattr(dispatch, "AHEAD_BYTES", 0)
    dispatcher.submit(ROUTE, third := request(2, "other"), [sound("other")])
    await asyncio.sleep(0)
    assert [each.encoder for each in (first, second, third)] == ["encoder-0", "encoder-0", ""]
    assert sent.kinds == ["Input", "Submit", "Submit"]
