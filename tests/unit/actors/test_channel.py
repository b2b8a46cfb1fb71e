"""Commands on their way to a worker."""

import queue
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from antiphon.actors.channel import CommandReceiver, CommandSender


@pytest.fixture
def received() -> "queue.Queue[tuple[str, Any]]":
    return queue.Queue()


@pytest.fixture
def receiver(received: "queue.Queue[tuple[str, Any]]") -> Iterator[CommandReceiver]:
    found = CommandReceiver(
        "127.0.0.1",
        {
            name: lambda argument, name=name: received.put((name, argument))
            for name in ("submit", "cancel")
        },
    )
    found.start()
    yield found
    found.close()
    assert not found.alive


def test_commands_arrive_in_order_and_arrays_are_equal(
    receiver: CommandReceiver, received: "queue.Queue[tuple[str, Any]]"
) -> None:
    sender = CommandSender(receiver.address, receiver.token)
    arrays = [np.arange(size, dtype=np.float32) for size in (0, 1, 75_000, 300_000)]
    for number, array in enumerate(arrays):
        sender.send("submit", [(number, array)])
        sender.send("cancel", number)
    for number, array in enumerate(arrays):
        name, [(found, samples)] = received.get(timeout=5)
        assert (name, found) == ("submit", number)
        np.testing.assert_array_equal(samples, array)
        assert received.get(timeout=5) == ("cancel", number)
    sender.close()


def test_what_is_sent_is_what_it_was_then(
    receiver: CommandReceiver, received: "queue.Queue[tuple[str, Any]]"
) -> None:
    """A caller may use an array again once it was taken; requests of one message that share an array still share it."""
    sender, samples = CommandSender(receiver.address, receiver.token), np.ones(100_000, np.float32)
    sender.send("submit", [samples, samples])
    samples[:] = 2
    _, (first, second) = received.get(timeout=5)
    assert (first == 1).all()
    assert np.shares_memory(first, second)
    sender.close()


def test_strangers_are_not_heard(
    receiver: CommandReceiver, received: "queue.Queue[tuple[str, Any]]"
) -> None:
    stranger, sender = (
        CommandSender(receiver.address, b"x" * 16),
        CommandSender(receiver.address, receiver.token),
    )
    stranger.send("submit", 1)
    sender.send("submit", 2)
    assert received.get(timeout=5) == ("submit", 2)
    stranger.close()
    sender.close()
    assert received.empty()
    assert receiver.alive


def test_a_receiver_that_fails_says_why(receiver: CommandReceiver) -> None:
    sender = CommandSender(receiver.address, receiver.token)
    sender.send("unknown", None)
    until = time.monotonic() + 5
    while receiver.alive and time.monotonic() < until:
        time.sleep(0.01)
    assert isinstance(receiver.failure, KeyError)
    sender.close()
