"""ZeroMQ between processes: each process has one receiver, and one sender for each other one.

A message takes a Unix socket to a receiver on the same node, and TCP encrypted with CURVE to other
nodes. A receiver's key pair is made with it; the public key and a secret token travel to senders in
its `Address`, through Ray. Without the key no message gets into a receiver over TCP, and without
the token none is decoded. What strangers can make a receiver hold: one frame of MAX_FRAME_BYTES for
each connection, until the handshake's time is over.

A Ray call takes a millisecond, and another one where it carries an array.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import zmq

from antiphon.actors.address import Address, Host, SocketFolder
from antiphon.actors.frames import MAX_FRAME_BYTES, TOKEN_BYTES, Decoder, Encoder, MessageError
from antiphon.actors.loop import Loop
from antiphon.config.errors import AntiphonError

logger = logging.getLogger(__name__)

MAX_QUEUED = 100_000  # messages that wait for a receiver; one that lags so far behind is gone
MAX_RECEIVED = 256  # messages of one sender that wait in a receiver
CURVE_BYTES = 64  # over what encryption adds to a frame
HANDSHAKE_MS = 2000  # for a stranger that connects and says nothing
CLOSING_CHECK_MS = 200  # how often a receiver's thread checks whether it should close
COPIED_BYTES = 64 << 10  # frames up to this size are copied; larger ones are sent from their place
AT_ONCE = 64  # messages that a receiver handles before the event loop's other work


class PeerGone(AntiphonError):
    """A message could not be sent: its receiver has not taken the last MAX_QUEUED ones."""


def _new_socket(kind: int) -> Any:  # pyzmq sets options through attributes, unknown to mypy
    return zmq.Context.instance().socket(kind)


def _full_encoder(token: bytes) -> Encoder[Any]:
    from antiphon.actors.wire import MessageEncoder  # not above: it needs torch

    return MessageEncoder(token)


def _full_decoder() -> Decoder[Any]:
    from antiphon.actors.wire import MessageDecoder  # not above: it needs torch

    return MessageDecoder()


class Sender:
    """To the receiver at `address`. For one thread at a time. `node`: the sender's own.
    `encoder`: by default that of all messages.

    `linger_ms`: how long after `close` queued messages may still be sent.
    """

    in_this_process = False

    def __init__(
        self,
        address: Address,
        node: str,
        linger_ms: int = 1000,
        encoder: Encoder[Any] | None = None,
    ) -> None:
        self.address = address
        self._encoder = encoder or _full_encoder(address.token)
        self._socket = _new_socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, MAX_QUEUED)
        self._socket.setsockopt(zmq.LINGER, linger_ms)
        self._socket.copy_threshold = COPIED_BYTES
        if address.is_near(node):
            self._socket.connect(address.ipc)
        else:
            public_key, secret_key = zmq.curve_keypair()
            self._socket.curve_publickey, self._socket.curve_secretkey = public_key, secret_key
            self._socket.curve_serverkey = address.public_key
            self._socket.connect(address.tcp)

    def send(self, message: Any) -> None:
        """Returns at once. Long arrays must not change until the receiver has them.

        Raises MessageError if the message cannot travel, and PeerGone.
        """
        try:
            frames = self._encoder.encode(message)
            is_short = max(map(len, frames)) <= COPIED_BYTES  # then a copy takes half the time
            self._socket.send_multipart(frames, zmq.NOBLOCK, copy=is_short)
        except zmq.Again:
            raise PeerGone(f"{self.address} has taken none of {MAX_QUEUED} messages") from None

    def close(self) -> None:
        self._socket.close()


class Inbox:
    """The socket of a receiver, and the messages in it."""

    def __init__(self, host: Host, decoder: Decoder[Any] | None = None) -> None:
        self._socket = _new_socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, MAX_RECEIVED)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + CURVE_BYTES)
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        self._folder = SocketFolder()
        self.address = self._bind(host)
        self._decoder = decoder or _full_decoder()

    def _bind(self, host: Host) -> Address:
        """The Unix socket first: options concern what is bound after them."""
        socket, ipc = self._socket, self._folder.endpoint
        socket.bind(ipc)
        public_key, socket.curve_secretkey = zmq.curve_keypair()
        socket.curve_publickey, socket.curve_server = public_key, True
        socket.setsockopt(zmq.IPV6, ":" in host.ip)
        socket.bind(f"tcp://[{host.ip}]:*" if ":" in host.ip else f"tcp://{host.ip}:*")
        tcp = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        return Address(tcp, ipc, host.node, public_key, secrets.token_bytes(TOKEN_BYTES))

    @property
    def descriptor(self) -> int:
        """Becomes readable when there may be messages."""
        return int(self._socket.getsockopt(zmq.FD))

    def wait(self, milliseconds: int) -> None:
        self._socket.poll(milliseconds)

    def messages(self, most: int) -> Iterator[Any]:
        """Up to `most` of the messages that are here; those of strangers count."""
        for _ in range(most):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            yield from self._decoded([frame.buffer for frame in frames])

    def _decoded(self, frames: list[memoryview]) -> Sequence[Any]:
        if not secrets.compare_digest(bytes(frames[0][:TOKEN_BYTES]), self.address.token):
            return []
        try:
            return self._decoder.decode(frames)
        except MessageError:  # of one that has the token: a fault of ours
            logger.exception("a message was dropped")
            return []

    @property
    def is_empty(self) -> bool:
        return not self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN

    def close(self) -> None:
        self._socket.close(linger=0)
        self._folder.remove()


class Receiver(Loop):
    """Gives each message to `handle`, in the order of sending; in a thread of its own.
    `decoder`: by default that of all messages."""

    def __init__(
        self,
        host: Host,
        handle: Callable[[Any], None],
        decoder: Decoder[Any] | None = None,
    ) -> None:
        super().__init__()
        self._inbox = Inbox(host, decoder)
        self.address = self._inbox.address
        self._handle = handle

    def loop(self) -> None:
        try:
            while not self.closing.is_set():
                self._inbox.wait(CLOSING_CHECK_MS)
                for message in self._inbox.messages(AT_ONCE):
                    self._handle(message)
        finally:
            self._inbox.close()


class AsyncReceiver:
    """Gives each message to `handle` in an event loop, from `attach` to `close`.

    What `handle` raises is passed to `failed`, and no more messages are received.
    """

    def __init__(self, host: Host) -> None:
        self._inbox = Inbox(host)
        self.address = self._inbox.address
        self._descriptor = self._inbox.descriptor
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        handle: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """In the thread of `loop`."""
        self._loop, self._handle, self._failed = loop, handle, failed
        loop.add_reader(self._descriptor, self._receive)
        self._receive()  # the descriptor does not tell of what came earlier

    def _receive(self) -> None:
        """The descriptor becomes readable once for any number of messages: takes all of them."""
        if self._loop is None:
            return
        try:
            for message in self._inbox.messages(AT_ONCE):
                self._handle(message)
            if not self._inbox.is_empty:
                self._loop.call_soon(self._receive)
        except Exception as error:
            self._stop()
            self._failed(error)

    def _stop(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._descriptor)
        self._loop = None

    def close(self) -> None:
        """In the loop's thread, unless the loop is closed."""
        self._stop()
        self._inbox.close()
