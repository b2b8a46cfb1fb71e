"""ZeroMQ between engine and decoder workers: commands one way, each step's outputs the other.

A Ray call takes a millisecond, and another one where it carries an array. Receivers ignore
messages without their secret token, as anybody can reach a TCP port.
"""

import pickle
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from antiphon.actors.messages import Cancel, Command, Stop, Submit
from antiphon.actors.worker import Loop
from antiphon.scheduler.request import StepOutput

_TOKEN_BYTES = 16
_CLOSING_CHECK_MS = 200  # how often a receiver checks whether it should close

# A command travels as its type's number in this list and its fields: pickling a class by name would
# take 5 us more.
_COMMANDS: tuple[type[Command], ...] = (Submit, Cancel, Stop)


def node_address() -> str:
    """This process's address as other nodes of the cluster see it."""
    import ray  # not above: without Ray, nothing leaves this process

    address: str = ray.util.get_node_ip_address()
    return address


class _Sender:
    """`address` and `token`: the receiver's. For one thread at a time."""

    linger_ms = 0  # how long after `close` queued messages may still be sent

    def __init__(self, address: str, token: bytes) -> None:
        self._socket: zmq.Socket = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # unlimited: drops nothing, never blocks
        self._socket.setsockopt(zmq.LINGER, self.linger_ms)
        self._socket.connect(address)
        self._token = token

    def _send(self, *frames: Any) -> None:
        self._socket.send_multipart([self._token, *frames])

    def close(self) -> None:
        self._socket.close()


def _listen(socket: zmq.Socket, host: str) -> tuple[str, bytes]:
    """Binds to a free port. Returns the address and the secret token that senders need."""
    socket.setsockopt(zmq.RCVHWM, 0)
    port: int = socket.bind_to_random_port(f"tcp://{host}")
    return f"tcp://{host}:{port}", secrets.token_bytes(_TOKEN_BYTES)


class OutputSender(_Sender):
    """A decoder worker's end."""

    linger_ms = 1000

    def send(self, output: StepOutput) -> None:
        self._send(msgspec.msgpack.encode(output))


class OutputReceiver:
    """The engine's end, for all decoder workers."""

    def __init__(self, host: str) -> None:
        self._socket = zmq.asyncio.Context.instance().socket(zmq.PULL)
        self.address, self.token = _listen(self._socket, host)
        self._decoder = msgspec.msgpack.Decoder(StepOutput)

    async def receive(self) -> StepOutput:
        while True:
            token, *body = await self._socket.recv_multipart()
            if secrets.compare_digest(token, self.token) and len(body) == 1:
                return self._decoder.decode(body[0])

    def close(self) -> None:
        self._socket.close(linger=0)


class CommandSender(_Sender):
    """The engine's end, to one decoder worker."""

    def send(self, command: Command) -> None:
        """Sends arrays as they lie in memory, and an array that occurs twice only once."""
        arrays: list[pickle.PickleBuffer] = []
        content = (_COMMANDS.index(type(command)), *vars(command).values())
        head = pickle.dumps(content, protocol=5, buffer_callback=arrays.append)
        self._send(head, *(array.raw() for array in arrays))


class CommandReceiver(Loop):
    """A decoder worker's end: gives each command to `handle`, in the order of sending."""

    def __init__(self, host: str, handle: Callable[[Command], None]) -> None:
        super().__init__()
        self._socket: zmq.Socket = zmq.Context.instance().socket(zmq.PULL)
        self.address, self.token = _listen(self._socket, host)
        self._handle = handle

    def loop(self) -> None:
        try:
            while not self.closing.is_set():
                if self._socket.poll(_CLOSING_CHECK_MS):
                    self._receive(self._socket.recv_multipart(copy=False))
        finally:
            self._socket.close(linger=0)

    def _receive(self, frames: list[zmq.Frame]) -> None:
        token, *body = frames
        if secrets.compare_digest(token.bytes, self.token) and body:
            head, *arrays = (frame.buffer for frame in body)
            number, *fields = pickle.loads(head, buffers=arrays)
            self._handle(_COMMANDS[number](*fields))
