"""Both workers of one process, and a frontend beside them whose messages are encoded."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from plain_engine import PlainEngine

from antiphon.actors.colocated_actor import ColocatedActor
from antiphon.actors.local import ThreadPeer
from antiphon.actors.messages import FrontendMessage, Input, NotOpen, Output, Submit
from antiphon.actors.wire import MessageEncoder
from antiphon.config.options import resolve
from antiphon.scheduler.request import Finished, Incarnation, Request, RequestState


class Frontend:
    """A frontend beside the workers. Its messages are encoded as if they left the process."""

    def __init__(self) -> None:
        self.ends: dict[int, Finished] = {}
        self.lost: list[NotOpen] = []
        self._encoder = MessageEncoder(b"x" * 16)

    def send(self, message: FrontendMessage) -> None:
        self._encoder.encode(message)
        if isinstance(message, NotOpen):
            self.lost.append(message)
        if isinstance(message, Output):
            for finished in message.output.finished:
                assert finished.number not in self.ends
                self.ends[finished.number] = finished


class System:
    """Both workers, and a frontend."""

    def __init__(self, plain: PlainEngine, actor: ColocatedActor) -> None:
        self.plain, self.actor, self.frontend = plain, actor, Frontend()
        self.name = ""

    def start(self) -> None:
        self.actor.start("", {self.name: ThreadPeer(self.frontend.send)})

    def request(self, *ids: int) -> Request:
        request = self.plain.request(np.array(ids, np.int32), [0], 4)
        (media,) = request.inputs
        request.encoder = "encoder-0"
        self.name = request.id.frontend
        self.actor.receive(Input(self.name, media.key, media.payload))
        return request

    def submit(self, *requests: Request) -> None:
        self.actor.receive(Submit(list(requests)))

    def wait(self, *requests: Request) -> list[Finished]:
        end = time.monotonic() + 20
        while not all(request.id.number in self.frontend.ends for request in requests):
            assert time.monotonic() < end, f"only {self.frontend.ends} ended"
            assert self.actor.encoder.alive, self.actor.encoder.failure
            assert self.actor.decoder.alive, self.actor.decoder.failure
            time.sleep(0.005)
        return [self.frontend.ends[request.id.number] for request in requests]

    def check_serves(self) -> None:
        self.submit(request := self.request(9, 8, 7))
        (finished,) = self.wait(request)
        assert finished.state is RequestState.DONE, finished.error


@contextmanager
def running_system(folder: Path) -> Iterator[System]:
    plain = PlainEngine(folder, max_num_seqs=4, max_model_len=40, kv_page_size=8)
    options = {"device": "cpu", "num_kv_pages": 100, "kv_page_size": 8, "max_num_seqs": 4}
    actor = ColocatedActor()
    actor.load(Incarnation("decoder-0", 0), plain.model, resolve(str(folder), options), None)
    system = System(plain, actor)
    system.request(1)  # learns the frontend's name
    yield system
    actor.close()
