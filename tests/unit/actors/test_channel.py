"""Messages on their way to a decoder worker."""

import pickle
import queue
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from antiphon.actors.channel import CommandReceiver, CommandSender
from antiphon.actors.messages import Cancel, Command, Stop, Submit
from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.request import Media, Request

Received = queue.Queue[Command]


@pytest.fixture
def received() -> Received:
    return queue.Queue()


@pytest.fixture
def receiver(received: Received) -> Iterator[CommandReceiver]:
    receiver = CommandReceiver("127.0.0.1", received.put)
    receiver.start()
    yield receiver
    receiver.close()
    assert not receiver.alive


def request(number: int, samples: np.ndarray) -> Request:
    media = Media(f"clip {number}", "audio", 1500, samples)
    return Request(number, np.array([1]), (media,), SamplingParams(), DecodingRules(), 8, 0)


def submitted(received: Received) -> list[Request]:
    message = received.get(timeout=5)
    assert isinstance(message, Submit)
    return message.requests


def test_messages_arrive_in_order_and_arrays_are_equal(
    receiver: CommandReceiver, received: Received
) -> None:
    sender = CommandSender(receiver.address, receiver.token)
    arrays = [np.arange(size, dtype=np.float32) for size in (0, 1, 75_000, 300_000)]
    for number, array in enumerate(arrays):
        sender.send(Submit([request(number, array)]))
        sender.send(Cancel(number))
        sender.send(Stop(number))
    for number, array in enumerate(arrays):
        (arrived,) = submitted(received)
        assert arrived.id == number
        np.testing.assert_array_equal(arrived.inputs[0].payload, array)
        assert received.get(timeout=5) == Cancel(number)
        assert received.get(timeout=5) == Stop(number)
    sender.close()


def test_a_message_keeps_what_it_held_when_it_was_sent(
    receiver: CommandReceiver, received: Received
) -> None:
    """A caller may change an array after sending it; requests of one message that share an array
    still share it."""
    sender, samples = CommandSender(receiver.address, receiver.token), np.ones(100_000, np.float32)
    sender.send(Submit([request(0, samples), request(1, samples)]))
    samples[:] = 2
    first, second = (arrived.inputs[0].payload for arrived in submitted(received))
    assert (first == 1).all()
    assert np.shares_memory(first, second)
    sender.close()


def test_strangers_are_not_heard(receiver: CommandReceiver, received: Received) -> None:
    stranger = CommandSender(receiver.address, b"x" * 16)
    sender = CommandSender(receiver.address, receiver.token)
    stranger.send(Cancel(1))
    sender.send(Cancel(2))
    assert received.get(timeout=5) == Cancel(2)
    stranger.close()
    sender.close()
    assert received.empty()
    assert receiver.alive


def test_a_receiver_that_fails_says_why() -> None:
    def refuse(command: Command) -> None:
        raise KeyError(command)

    receiver = CommandReceiver("127.0.0.1", refuse)
    receiver.start()
    sender = CommandSender(receiver.address, receiver.token)
    sender.send(Cancel(1))
    deadline = time.monotonic() + 5
    while receiver.alive and time.monotonic() < deadline:
        time.sleep(0.01)
    assert isinstance(receiver.failure, KeyError)
    sender.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_hidden_states_travel_as_one_buffer(dtype: torch.dtype) -> None:
    states = HiddenStates(("a", "b"), (2, 3), torch.randn(5, 4).to(dtype))
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(states, protocol=5, buffer_callback=buffers.append)
    assert len(head) < 500
    assert [buffer.raw().nbytes for buffer in buffers] == [states.packed.nbytes]
    readonly = [bytes(buffer.raw()) for buffer in buffers]  # as Ray's object store gives them
    arrived = pickle.loads(head, buffers=readonly)
    assert (arrived.keys, arrived.lengths) == (states.keys, states.lengths)
    assert arrived.packed.dtype == dtype
    assert torch.equal(arrived.packed, states.packed)
