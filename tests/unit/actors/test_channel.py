"""Messages on their way between processes."""

import asyncio
import queue
import stat
import time
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import pytest
import zmq

from antiphon.actors import channel
from antiphon.actors.address import Address, Host
from antiphon.actors.channel import AsyncReceiver, PeerGone, Receiver, Sender
from antiphon.actors.frames import MAX_FRAME_BYTES, MessageError
from antiphon.actors.messages import Detach, Input, Message

HERE = Host("127.0.0.1", "this node")
NEAR, FAR = HERE.node, "another node"
Received = queue.Queue[Message]


@pytest.fixture
def received() -> Received:
    return queue.Queue()


@pytest.fixture
def receiver(received: Received) -> Iterator[Receiver]:
    receiver = Receiver(HERE, received.put)
    receiver.start()
    yield receiver
    receiver.close()
    assert not receiver.alive
    assert receiver.failure is None


@pytest.fixture
def senders() -> Iterator[Callable[[Address, str], Sender]]:
    made: list[Sender] = []

    def make(address: Address, node: str) -> Sender:
        made.append(Sender(address, node, linger_ms=0))
        return made[-1]

    yield make
    for sender in made:
        sender.close()


Senders = Callable[[Address, str], Sender]


def changed(address: Address, **fields: object) -> Address:
    values = {name: getattr(address, name) for name in address.__struct_fields__}
    return Address(**{**values, **fields})


def arrived(received: Received) -> Input:
    message = received.get(timeout=5)
    assert isinstance(message, Input)
    return message


@pytest.mark.parametrize("node", [NEAR, FAR])
def test_messages_arrive_in_order_and_arrays_are_equal(
    receiver: Receiver, received: Received, senders: Senders, node: str
) -> None:
    sender = senders(receiver.address, node)
    arrays = [np.arange(size, dtype=np.float32) for size in (0, 1, 75_000, 3_000_000)]
    for number, array in enumerate(arrays):
        sender.send(Input("f", str(number), array))
        sender.send(Detach(str(number)))
    for number, array in enumerate(arrays):
        message = arrived(received)
        assert message.key == str(number)
        np.testing.assert_array_equal(message.array, array)
        assert received.get(timeout=5) == Detach(str(number))


def test_near_receivers_are_reached_through_a_private_socket_that_goes_with_them(
    senders: Senders,
) -> None:
    received: Received = queue.Queue()
    receiver = Receiver(HERE, received.put)
    receiver.start()
    folder = receiver._inbox._folder.path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    unreachable = changed(receiver.address, tcp="tcp://127.0.0.1:1")
    senders(unreachable, NEAR).send(Detach("near"))
    assert received.get(timeout=5) == Detach("near")
    receiver.close()
    assert not folder.exists()


def test_a_socket_in_another_file_system_is_passed_over(
    receiver: Receiver, received: Received, senders: Senders
) -> None:
    elsewhere = changed(receiver.address, ipc="ipc:///nowhere/socket")
    senders(elsewhere, NEAR).send(Detach("by tcp"))
    assert received.get(timeout=5) == Detach("by tcp")


@pytest.mark.parametrize(
    ("node", "change"),
    [
        (NEAR, {"token": b"x" * 16}),
        (FAR, {"token": b"x" * 16}),
        (FAR, {"public_key": zmq.curve_keypair()[0]}),
    ],
)
def test_strangers_are_not_heard(
    receiver: Receiver, received: Received, senders: Senders, node: str, change: dict[str, bytes]
) -> None:
    stranger = senders(changed(receiver.address, **change), node)
    for _ in range(100):
        stranger.send(Detach("a stranger"))
    stranger.send(Input("a stranger", "", np.zeros(10_000_000, np.float32)))
    time.sleep(0.3)
    senders(receiver.address, node).send(Detach("a friend"))
    assert received.get(timeout=5) == Detach("a friend")
    assert received.empty()
    assert receiver.alive


def plain_text(address: Address) -> zmq.Socket[bytes]:
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(address.tcp)
    return socket


def test_who_speaks_plain_text_to_the_encrypted_port_costs_no_memory(
    receiver: Receiver, received: Received, senders: Senders
) -> None:
    process = psutil.Process()
    message = bytes(100 << 20)
    stranger = plain_text(receiver.address)
    before = process.memory_info().rss
    stranger.send_multipart([receiver.address.token, message], copy=False)
    time.sleep(0.5)
    assert process.memory_info().rss - before < 20 << 20
    senders(receiver.address, FAR).send(Detach("a friend"))
    assert received.get(timeout=5) == Detach("a friend")
    stranger.close()


def test_a_frame_over_the_limit_is_refused_and_others_are_heard(
    receiver: Receiver, received: Received, senders: Senders
) -> None:
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(receiver.address.ipc)
    socket.send_multipart([receiver.address.token, bytes(MAX_FRAME_BYTES + 100)])
    time.sleep(0.2)
    senders(receiver.address, NEAR).send(Detach("a friend"))
    assert received.get(timeout=5) == Detach("a friend")
    assert received.empty()
    socket.close()


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"\x01\x00\x00\x00", b"\x01\x00\x00\x00\xc1", b"\xff" * 40]
)
def test_what_is_no_message_is_dropped_and_said(
    receiver: Receiver,
    received: Received,
    senders: Senders,
    content: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.connect(receiver.address.ipc)
    socket.send(receiver.address.token + content)
    time.sleep(0.1)
    senders(receiver.address, NEAR).send(Detach("next"))
    assert received.get(timeout=5) == Detach("next")
    assert "a message was dropped" in caplog.text
    socket.close()


def test_a_message_that_cannot_travel_is_said_to_its_sender_and_the_next_one_goes(
    receiver: Receiver, received: Received, senders: Senders
) -> None:
    sender = senders(receiver.address, NEAR)
    with pytest.raises(MessageError, match="object"):
        sender.send(Input("f", "k", np.array([object()])))
    sender.send(Detach("next"))
    assert received.get(timeout=5) == Detach("next")


def test_a_receiver_that_takes_nothing_is_gone_and_never_blocks_its_sender(
    receiver: Receiver, senders: Senders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "MAX_QUEUED", 10)
    nobody = changed(receiver.address, tcp="tcp://127.0.0.1:1")
    sender = senders(nobody, FAR)

    def send_many() -> None:
        for _ in range(100):
            sender.send(Detach("f"))

    with pytest.raises(PeerGone, match=r"127\.0\.0\.1:1"):
        send_many()


def test_a_receiver_that_fails_says_why(senders: Senders) -> None:
    def refuse(message: Message) -> None:
        raise KeyError(message)

    receiver = Receiver(HERE, refuse)
    receiver.start()
    senders(receiver.address, NEAR).send(Detach("f"))
    deadline = time.monotonic() + 5
    while receiver.alive and time.monotonic() < deadline:
        time.sleep(0.01)
    assert isinstance(receiver.failure, KeyError)


def test_an_address_does_not_show_its_secrets(receiver: Receiver) -> None:
    address = receiver.address
    assert repr(address.token) not in repr(address)
    assert address.public_key.decode() not in repr(address)


# ---------------------------------------------------------------------- in an event loop


@pytest.mark.parametrize("node", [NEAR, FAR])
def test_an_event_loop_gets_every_message_and_does_its_other_work_meanwhile(
    senders: Senders, node: str
) -> None:
    async def main() -> None:
        count, received, other = 20 * channel.AT_ONCE, 0, 0
        all_here = asyncio.Event()

        def handle(message: Message) -> None:
            nonlocal received
            assert message == Detach(str(received))
            received += 1
            if received == count:
                all_here.set()

        receiver = AsyncReceiver(HERE)
        sender = senders(receiver.address, node)
        for number in range(count // 2):  # some come before the loop listens
            sender.send(Detach(str(number)))
        await asyncio.sleep(0.1)
        receiver.attach(asyncio.get_running_loop(), handle, pytest.fail)
        for number in range(count // 2, count):
            sender.send(Detach(str(number)))
        while not all_here.is_set():
            other += 1
            await asyncio.sleep(0)
        assert other >= 5
        receiver.close()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_an_error_in_an_event_loop_is_told_and_ends_the_receiving(senders: Senders) -> None:
    async def main() -> None:
        errors: list[Exception] = []

        def refuse(message: Message) -> None:
            raise KeyError(message)

        receiver = AsyncReceiver(HERE)
        receiver.attach(asyncio.get_running_loop(), refuse, errors.append)
        sender = senders(receiver.address, NEAR)
        for _ in range(3):
            sender.send(Detach("f"))
        while not errors:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert [type(error) for error in errors] == [KeyError]
        receiver.close()

    asyncio.run(asyncio.wait_for(main(), 20))
