"""Step outputs on their way from decoder workers to the engine: one ZeroMQ message a step, no Ray call on the token path."""

import secrets

import msgspec
import zmq
import zmq.asyncio

from antiphon.scheduler.request import StepOutput

_TOKEN_BYTES = 16


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
    """The engine's end. Messages without this engine's secret token are ignored: anybody can reach a TCP port."""

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
