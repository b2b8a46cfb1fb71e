"""What travels between engine and decoder workers by ZeroMQ: a message for each step's outputs, and commands the other way. A Ray
call costs a millisecond, and as much again where it carries an array.

Messages without the receiver's secret token are ignored: anybody can reach a TCP port.
"""

import pickle
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from antiphon.actors.loop import Loop
from antiphon.scheduler.request import StepOutput

_TOKEN_BYTES = 16
_LOOK_MS = 200  # how often a receiver looks whether it is to close


def node_address() -> str:
    """This process's address as other nodes of the cluster see it."""
    import ray  # here alone: without Ray, nothing leaves this process

    address: str = ray.util.get_node_ip_address()
    return address


class _Sender:
    """`address` and `token` come from the receiver. For one thread at a time."""

    linger_ms = 0  # how long what is not sent yet may still go out after `close`

    def __init__(self, address: str, token: bytes) -> None:
        self._socket: zmq.Socket = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # nothing may be dropped, or block its sender
        self._socket.setsockopt(zmq.LINGER, self.linger_ms)
        self._socket.connect(address)
        self._token = token

    def _send(self, *frames: Any) -> None:
        self._socket.send_multipart([self._token, *frames])

    def close(self) -> None:
        self._socket.close()


def _listen(socket: zmq.Socket, host: str) -> tuple[str, bytes]:
    """The address and the secret token that senders need."""
    socket.setsockopt(zmq.RCVHWM, 0)
    port: int = socket.bind_to_random_port(f"tcp://{host}")
    return f"tcp://{host}:{port}", secrets.token_bytes(_TOKEN_BYTES)


class OutputSender(_Sender):
    """A decoder worker's end."""

    linger_ms = 1000

    def send(self, output: StepOutput) -> None:
        self._send(msgspec.msgpack.encode(output))


class OutputReceiver:
    """The engine's end."""

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
    """The engine's end, to one worker."""

    def send(self, command: str, argument: Any) -> None:
        """Arrays go as they lie in memory; what is in `argument` twice goes once."""
        arrays: list[pickle.PickleBuffer] = []
        head = pickle.dumps((command, argument), protocol=5, buffer_callback=arrays.append)
        self._send(head, *(array.raw() for array in arrays))


class CommandReceiver(Loop):
    """A worker's end: carries out `commands`, by name, in the order in which they were sent."""

    def __init__(self, host: str, commands: Mapping[str, Callable[[Any], None]]) -> None:
        super().__init__()
        self._socket: zmq.Socket = zmq.Context.instance().socket(zmq.PULL)
        self.address, self.token = _listen(self._socket, host)
        self._commands = commands

    def loop(self) -> None:
        try:
            while not self.closing.is_set():
                if self._socket.poll(_LOOK_MS):
                    self._carry_out(self._socket.recv_multipart(copy=False))
        finally:
            self._socket.close(linger=0)

    def _carry_out(self, frames: list[zmq.Frame]) -> None:
        token, *body = frames
        if secrets.compare_digest(token.bytes, self.token) and body:
            command, argument = pickle.loads(
                body[0].buffer, buffers=[each.buffer for each in body[1:]]
            )
            self._commands[command](argument)
