"""Starts the workers of one engine as Ray actors, sends them messages, and ends them."""

import asyncio
import atexit
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import ray

from antiphon.actors.address import Host
from antiphon.actors.channel import AsyncReceiver, Sender
from antiphon.actors.colocated_actor import ColocatedActor, encoder_beside
from antiphon.actors.decoder_actor import DecoderActor
from antiphon.actors.encoder_actor import EncoderActor
from antiphon.actors.messages import Attach, Detach, Member, Message
from antiphon.actors.placement import Placement, place
from antiphon.actors.session import session
from antiphon.actors.workers import Handle, Workers
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.errors import AntiphonError, EngineDeadError
from antiphon.config.options import EngineConfig
from antiphon.families.checkpoint import ModelConfig
from antiphon.scheduler.request import Incarnation

logger = logging.getLogger(__name__)

CHECK_SECONDS = 0.2  # how often a start checks whether it was given up

# One start at a time: each engine asks for the CPUs and GPUs that the ones before have left.
_starting = threading.Lock()


class StartGivenUp(Exception):
    """No caller waits for these workers any more."""


class RayWorkers(Workers):
    """Workers as Ray actors, made by `launch`. They keep this process connected to Ray until they
    are closed."""

    def __init__(self, placement: Placement, config: EngineConfig) -> None:
        # PASSIVE: two OpenMP pools (torch's and Numba's) share a worker's cores, and threads that
        # spin while they wait would starve each other.
        remote = ray.remote(
            runtime_env={"env_vars": {"OMP_WAIT_POLICY": "PASSIVE"}},
            concurrency_groups={"watch": 1},
            max_restarts=0,
            num_cpus=placement.cpus,
            num_gpus=placement.gpu_share,
        )
        encoders = 0 if placement.colocated else config.encoder.replicas
        self.encoders = {f"encoder-{i}": remote(EncoderActor).remote() for i in range(encoders)}
        decoder = remote(ColocatedActor if placement.colocated else DecoderActor)
        self.decoders = {f"decoder-{i}": decoder.remote() for i in range(config.decoder.replicas)}
        self.colocated = placement.colocated
        self.info = {"placement": "colocated" if placement.colocated else "disaggregated"}
        self._members: list[Member] = []
        self._receiver: AsyncReceiver | None = None
        self._senders: dict[str, Sender] = {}
        self._frontend = ""
        self._closing, self._closed = threading.Lock(), False
        self._pid = os.getpid()
        atexit.register(self.close)  # Ray's own exit would wait ten seconds for the workers

    @property
    def all(self) -> list[Any]:
        return [*self.encoders.values(), *self.decoders.values()]

    # ------------------------------------------------------------------ start and end

    def load(
        self,
        model: ModelConfig,
        config: EngineConfig,
        rules: TimestampRules | None,
        gpu_share: float,
        wait: Callable[[list[Any]], list[Any]],
    ) -> None:
        """Loads all weights in parallel. `wait` returns the results of calls."""
        calls = [
            worker.load.remote(Incarnation(name, 0), model, config, gpu_share)
            for name, worker in self.encoders.items()
        ]
        calls += [
            worker.load.remote(Incarnation(name, 0), model, config, rules, gpu_share)
            for name, worker in self.decoders.items()
        ]
        info = wait(calls)
        self.info |= {**info[0], **info[-1]}

    def connect(self, wait: Callable[[list[Any]], list[Any]]) -> None:
        """Connects the workers with each other, and starts them."""
        addresses = wait([worker.listen.remote() for worker in self.all])
        names = [*self.encoders, *self.decoders]
        self._members = [
            Member(name, "encoder" if name in self.encoders else "decoder", 0, address)
            for name, address in zip(names, addresses, strict=True)
        ]
        if self.colocated:  # the encoder in a decoder's process receives at its address
            self._members += [
                Member(encoder_beside(member.name), "encoder", 0, member.address)
                for member in self._members
            ]
        wait([worker.connect.remote(self._members) for worker in self.all])

    def attach(self, frontend: str, loop: asyncio.AbstractEventLoop, handle: Handle) -> None:
        host = Host.here()
        self._frontend, self._failed = frontend, loop.create_future()
        self._receiver = receiver = AsyncReceiver(host)
        senders: dict[Any, Sender] = {}  # workers of one process share a receiver
        for member in self._members:
            assert member.address is not None
            if member.address not in senders:
                senders[member.address] = Sender(member.address, host.node)
                senders[member.address].send(Attach(frontend, receiver.address))
            self._senders[member.name] = senders[member.address]
        receiver.attach(loop, cast("Callable[[Message], None]", handle), self._note_failure)

    def _note_failure(self, error: Exception) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    def detach(self) -> None:
        for sender in dict.fromkeys(self._senders.values()):
            sender.send(Detach(self._frontend))
            sender.close()
        if self._receiver is not None:
            self._receiver.close()
        self._senders, self._receiver = {}, None

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        if os.getpid() != self._pid:
            return  # a copy in a forked child: the workers belong to its parent
        if ray.is_initialized():  # a call after the program left Ray would start another one
            for worker in self.all:
                ray.kill(worker, no_restart=True)
        session.leave()

    def send(self, worker: str, message: Message) -> None:
        self._senders[worker].send(message)

    # ------------------------------------------------------------------ health

    async def watch(self) -> None:
        watches = [asyncio.ensure_future(_ending(worker)) for worker in self.all]
        try:
            await asyncio.wait([*watches, self._failed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for watch in watches:
                watch.cancel()
        if self._failed.done():
            self._failed.result()  # raises the error
        raise next(
            EngineDeadError(watch.result())
            for watch in watches
            if watch.done() and not watch.cancelled()
        )

    async def stats(self) -> list[dict[str, int]]:
        return list(
            await asyncio.gather(*(worker.stats.remote() for worker in self.decoders.values()))
        )


async def _ending(worker: Any) -> str:
    """Waits until a worker ends, and returns a sentence that says why."""
    try:
        await worker.watch.options(concurrency_group="watch").remote()
    except ray.exceptions.RayTaskError as failure:
        return f"a worker ended: {failure.cause}"
    except ray.exceptions.RayError as failure:
        reason = str(failure).strip().splitlines()[-1]
        return f"a worker process is gone: {reason.partition(' Some common causes')[0]}"
    return "a worker stopped"


def launch(
    model: ModelConfig,
    config: EngineConfig,
    rules: TimestampRules | None,
    given_up: threading.Event,
) -> RayWorkers:
    """Joins or starts Ray, starts all workers and loads them.

    Raises ConfigurationError if they don't fit the cluster, what their loading raised, and
    StartGivenUp soon after `given_up` was set. Nothing is left running then.
    """
    with ExitStack() as undo:
        session.join(config.workers.address)
        undo.callback(session.leave)
        with _starting:
            if given_up.is_set():
                raise StartGivenUp
            placement = place(config)
            workers = RayWorkers(placement, config)
            undo.pop_all()  # closing the workers leaves Ray too
            undo.callback(workers.close)
            wait = partial(results, config=config, given_up=given_up)
            workers.load(model, config, rules, placement.gpu_share, wait)
            workers.connect(wait)
        undo.pop_all()
    return workers


def results(calls: list[Any], config: EngineConfig, given_up: threading.Event) -> list[Any]:
    """The results of Ray calls, in their order. Raises the first error, EngineDeadError after
    `startup_timeout`, and StartGivenUp."""
    timeout = config.workers.startup_timeout
    deadline = time.monotonic() + timeout
    pending = calls
    while pending:
        if given_up.is_set():
            raise StartGivenUp
        if time.monotonic() > deadline:
            raise EngineDeadError(
                f"the workers did not start within {timeout:g} s: "
                "raise startup_timeout, or free resources in the cluster"
            )
        done, pending = ray.wait(pending, num_returns=1, timeout=CHECK_SECONDS)
        _get(done)
    return _get(calls)


def _get(calls: list[Any]) -> list[Any]:
    try:
        values: list[Any] = ray.get(calls)
        return values
    except AntiphonError as error:  # Ray raises a subclass of its own class and ours: unwrap it
        raise getattr(error, "cause", error) from None
    except ray.exceptions.RayError as error:
        raise EngineDeadError(f"a worker failed while it started: {error}") from error
