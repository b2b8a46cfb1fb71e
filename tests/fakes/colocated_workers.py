"""The actors of a colocated replica of several ranks, each in threads of this process, and a
frontend beside them."""

import queue
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from thread_group import make_ranks

from antiphon.actors.address import Host
from antiphon.actors.channel import Receiver
from antiphon.actors.colocated_actor import ColocatedActor
from antiphon.actors.follower_actor import FollowerActor
from antiphon.actors.messages import (
    Attach,
    Encode,
    EncodeFailed,
    EncodeJob,
    FrontendMessage,
    Input,
    NeedInput,
    Output,
    Submit,
)
from antiphon.config.options import resolve
from antiphon.config.parallel import Parallel
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.handoff import HiddenStates
from antiphon.runtime.ranks import Ranks
from antiphon.scheduler.request import Finished, Incarnation, Request

HERE = Host("127.0.0.1", "this node")
NAME = "plain"  # of the frontend
START_SECONDS, WAIT_SECONDS = 60.0, 20.0


class ColocatedWorkers:
    """The leader's actor, and those of all other ranks. `states`: what the encoder has answered to
    the frontend, by key."""

    def __init__(self, folder: Path, parallel: Parallel, **options: Any) -> None:
        options = {"device": "cpu", "num_threads": 1, **options}
        config = resolve(str(folder), options)
        self.model = ModelConfig.load(config.model)
        self.leader = ColocatedActor()
        self.followers = [FollowerActor() for _ in range(parallel.num_ranks - 1)]
        self.states: dict[str, np.ndarray] = {}
        self.ends: dict[int, Finished] = {}
        self._inputs: dict[str, np.ndarray] = {}
        self._inbox: queue.SimpleQueue[FrontendMessage] = queue.SimpleQueue()
        every = make_ranks(parallel)
        (leading,) = (ranks for ranks in every if ranks.is_leader)
        others = [ranks for ranks in every if not ranks.is_leader]

        def follow(actor: FollowerActor, ranks: Ranks) -> None:
            actor.load("colocated", self.model, config, None, ranks, WAIT_SECONDS)

        with ThreadPoolExecutor(len(every)) as pool:
            loading = [
                pool.submit(follow, *pair) for pair in zip(self.followers, others, strict=True)
            ]
            incarnation = Incarnation("decoder-0", 0)
            self.leader.load(incarnation, self.model, config, None, ranks=leading)
            for future in loading:
                future.result(START_SECONDS)
        addresses = [
            {half: worker.listen(HERE, 0) for half, worker in actor.workers.items()}
            for actor in self.followers
        ]
        for actor in self.followers:
            actor.start()
        self.leader.start(HERE.node, {}, addresses)
        self._receiver = Receiver(HERE, self._inbox.put)
        self._receiver.start()
        self.leader.receive(Attach(NAME, self._receiver.address))

    def encode(self, pooled: bool = False, **inputs: np.ndarray) -> None:
        """Asks the encoder for hidden states, as `Engine.encode` does, in one message."""
        for key, array in inputs.items():
            self._send(key, array)
        jobs = [
            EncodeJob(key, len(array), NAME, (NAME,), pooled=pooled)
            for key, array in inputs.items()
        ]
        self.leader.receive(Encode(jobs))

    def submit(self, request: Request) -> None:
        for media in request.inputs:
            self._send(media.key, media.payload)
        self.leader.receive(Submit([request]))

    def _send(self, key: str, array: np.ndarray) -> None:
        self._inputs[key] = array
        self.leader.receive(Input(NAME, key, array))

    def wait(self, *keys: str | int) -> None:
        """Until these were answered: keys of inputs, and numbers of requests."""
        end = time.monotonic() + WAIT_SECONDS
        while not all(key in self.states or key in self.ends for key in keys):
            self.check_alive()
            assert time.monotonic() < end, f"of {keys} only {[*self.states, *self.ends]}"
            try:
                self._note(self._inbox.get(timeout=0.1))
            except queue.Empty:
                continue

    def check_alive(self) -> None:
        for actor in (self.leader, *self.followers):
            for loop in actor.loops:
                assert loop.failure is None, loop.failure
                assert loop.alive

    def _note(self, message: FrontendMessage) -> None:
        match message:
            case HiddenStates(keys, lengths, packed):
                parts = packed.to(torch.float32).split(list(lengths))
                assert not self.states.keys() & set(keys), "answered twice"
                self.states |= {key: part.numpy() for key, part in zip(keys, parts, strict=True)}
            case Output(output):
                self.ends |= {end.number: end for end in output.finished}
            case NeedInput(_, keys):
                for key in keys:
                    self._send(key, self._inputs[key])
            case EncodeFailed(key, error):
                raise AssertionError(f"{key}: {error}")

    def close(self) -> None:
        for actor in (self.leader, *self.followers):
            actor.close()
        for worker in (self.leader.encoder, self.leader.decoder):
            worker._links.close()
        self._receiver.closing.set()
        self._receiver.close()


@contextmanager
def colocated_workers(
    folder: Path, parallel: Parallel, **options: Any
) -> Iterator[ColocatedWorkers]:
    workers = ColocatedWorkers(folder, parallel, **options)
    try:
        yield workers
    finally:
        workers.close()
