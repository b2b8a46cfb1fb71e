"""What travels between engine and decoder workers by ZeroMQ: a message for each step's outputs, and commands the other way. A Ray
call costs a millisecond, and as much again where it carries an array.

Messages without the receiver's secret token are ignored: anybody can reach a TCP port.
"""

import pickle
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import ray
import zmq
import zmq.asyncio

from antiphon.actors.loop import Loop
from antiphon.scheduler.request import StepOutput

_TOKEN_BYTES = 16
_LOOK_MS = 200  # how often a receiver looks whether it is to close


def node_address() -> str:
    """This process's address as other nodes of the cluster see it."""
    address: str = ray.util.get_node_ip_address()
    return address


class OutputSender:
    """A decoder worker's end. `address` and `token` come from the engine's `OutputReceiver`."""

    def __init__(self, address: str, token: bytes) -> None:
        self._socket: zmq.Socket = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # an output must not be dropped or block the loop
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.connect(address)
        self._token = token

    def send(self, output: StepOutput) -> None:
        self._socket.send_multipart([self._token, msgspec.msgpack.encode(output)])

    def close(self) -> None:
        self._socket.close()


class OutputReceiver:
    """The engine's end."""

    def __init__(self, host: str) -> None:
        self._socket = zmq.asyncio.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        port = self._socket.bind_to_random_port(f"tcp://{host}")
        self.address, self.token = f"tcp://{host}:{port}", secrets.token_bytes(_TOKEN_BYTES)
        self._decoder = msgspec.msgpack.Decoder(StepOutput)

    async def receive(self) -> StepOutput:
        while True:
            token, *body = await self._socket.recv_multipart()
            if secrets.compare_digest(token, self.token) and len(body) == 1:
                return self._decoder.decode(body[0])

    def close(self) -> None:
        self._socket.close(linger=0)


class CommandSender:
    """The engine's end, to one worker; for one thread at a time. `address` and `token` come from the worker's `CommandReceiver`."""

    def __init__(self, address: str, token: bytes) -> None:
        self._socket: zmq.Socket = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.connect(address)
        self._token = token

    def send(self, command: str, argument: Any) -> None:
        """Arrays go as they lie in memory; what is in `argument` twice goes once."""
        arrays: list[pickle.PickleBuffer] = []
        head = pickle.dumps((command, argument), protocol=5, buffer_callback=arrays.append)
        self._socket.send_multipart([self._token, head, *(array.raw() for array in arrays)])

    def close(self) -> None:
        self._socket.close(linger=0)


class CommandReceiver(Loop):
    """A worker's end: carries out `commands`, by name, in the order in which they were sent."""

    def __init__(self, host: str, commands: Mapping[str, Callable[[Any], None]]) -> None:
        super().__init__()
        self._socket: zmq.Socket = zmq.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        port: int = self._socket.bind_to_random_port(f"tcp://{host}")
        self.address, self.token = f"tcp://{host}:{port}", secrets.token_bytes(_TOKEN_BYTES)
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
            command, argument = pickle.loads(body[0].buffer, buffers=[each.buffer for each in body[1:]])
            self._commands[command](argument)
