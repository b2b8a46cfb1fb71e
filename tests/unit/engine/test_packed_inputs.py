"""Short inputs travel together; what is asked about."""

import asyncio

import numpy as np
from dispatching import ROUTE, Sent, in_loop, request, sound, text

from antiphon.actors.messages import Inputs, NeedInput, StillOpen, Submit
from antiphon.engine.dispatch import Dispatcher
from antiphon.inputs.prepared import EncoderInput
from antiphon.scheduler.router import Route


@in_loop
async def test_short_inputs_of_one_turn_go_in_one_message_to_each_encoder(
    dispatcher: Dispatcher, sent: Sent
) -> None:
    texts = [text("a", 1, 2), text("b", 3), text("a", 1, 2), text("c")]
    for number, media in enumerate(texts):
        dispatcher.submit(ROUTE, request(number, media.key), [media])
    dispatcher.submit(Route("encoder-1", "decoder-1"), request(4, "d"), [text("d", 4)])
    samples = EncoderInput("e", "audio", 1, np.ones(2, np.float32))
    dispatcher.submit(ROUTE, request(5, "e"), [samples])
    dispatcher.submit(ROUTE, request(6, "f"), [sound("f")])
    assert sent.kinds == ["Input"], "a long one goes at once"
    await asyncio.sleep(0)
    messages = sent.take()
    assert [type(message) for _, message in messages] == [Inputs, Inputs, Inputs, Submit, Submit]
    packed = [(worker, m.unpacked()) for worker, m in messages if isinstance(m, Inputs)]
    contents = [(worker, each.key, each.array.tolist()) for worker, m in packed for each in m]
    assert contents == [
        ("encoder-0", "a", [1, 2]),
        ("encoder-0", "b", [3]),
        ("encoder-0", "c", []),
        ("encoder-1", "d", [4]),
        ("encoder-0", "e", [1.0, 1.0]),
    ]
    assert all(each.array.base is None for _, m in packed for each in m), "of its own"
    await asyncio.sleep(0)
    assert sent.take() == []


@in_loop
async def test_a_short_input_arrives_before_the_word_that_it_is_gone(
    dispatcher: Dispatcher, sent: Sent
) -> None:
    dispatcher.submit(ROUTE, each := request(0), [text("k", 1)])
    dispatcher.release(each)
    await asyncio.sleep(0)
    assert sent.kinds == ["Inputs", "InputGone", "Submit"]


@in_loop
async def test_short_inputs_that_are_not_sent_harm_no_request(
    dispatcher: Dispatcher, sent: Sent, not_sent: list[tuple[int, str]]
) -> None:
    """Who is asked for the work asks for them."""
    sent.fails = lambda message: isinstance(message, Inputs)
    dispatcher.submit(ROUTE, request(0), [text("k", 1)])
    await asyncio.sleep(0)
    assert sent.kinds == ["Submit"]
    assert not_sent == []
    dispatcher.answer(NeedInput("encoder-0", ("k",)))
    assert sent.kinds == ["Input"]


@in_loop
async def test_an_attempt_that_is_called_off_keeps_its_inputs(
    dispatcher: Dispatcher, sent: Sent
) -> None:
    dispatcher.submit(ROUTE, first := request(0), [media := sound()])
    dispatcher.cancel(ROUTE, first)
    dispatcher.submit(ROUTE, request(1), [media])
    dispatcher.release(first)
    await asyncio.sleep(0)
    assert sent.kinds == ["Input", "Submit", "Cancel", "Submit"]


def test_only_who_has_silent_requests_is_asked(dispatcher: Dispatcher, sent: Sent) -> None:
    dispatcher.ask({})
    assert sent.introductions == 0
    dispatcher.ask({"decoder-1": [3, 5]})
    assert sent.take() == [("decoder-1", StillOpen("f", [3, 5]))]
    assert sent.introductions == 1
