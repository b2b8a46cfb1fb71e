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
from typing import Any

import numpy as np
import ray

from antiphon.actors.channel import CommandSender, OutputReceiver, node_address
from antiphon.actors.colocated_actor import ColocatedActor
from antiphon.actors.decoder_actor import DecoderActor
from antiphon.actors.encoder_actor import EncoderActor
from antiphon.actors.messages import Cancel, Stop, Submit
from antiphon.actors.payloads import PayloadStore, Stored
from antiphon.actors.placement import Placement, place
from antiphon.actors.session import session
from antiphon.actors.workers import Workers
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.errors import AntiphonError, EngineDeadError
from antiphon.config.options import EngineConfig
from antiphon.families.checkpoint import ModelConfig
from antiphon.scheduler.request import Request, StepOutput

logger = logging.getLogger(__name__)

# Inputs above this size travel through Ray's object store; smaller ones travel inside the request.
STORE_BYTES = {"colocated": 1 << 20, "disaggregated": 1 << 15}
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
        self.info = {"placement": "colocated" if placement.colocated else "disaggregated"}
        self._store_bytes = STORE_BYTES[self.info["placement"]]
        self._store = PayloadStore()
        self._receiver: OutputReceiver | None = None
        self._command_senders: dict[str, CommandSender] = {}  # by decoder
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
        loading = [
            worker.load.remote(model, config, gpu_share) for worker in self.encoders.values()
        ]
        loading += [
            worker.load.remote(model, config, name, rules, gpu_share)
            for name, worker in self.decoders.items()
        ]
        info = wait(loading)
        self.info |= {**info[0], **info[-1]}

    def connect(self, receiver: OutputReceiver, wait: Callable[[list[Any]], list[Any]]) -> None:
        """Connects the workers with each other and with `receiver`, and starts them."""
        self._receiver = receiver
        connecting = [worker.connect.remote(self.decoders) for worker in self.encoders.values()]
        connecting += [
            worker.connect.remote(self.encoders, receiver.address, receiver.token)
            for worker in self.decoders.values()
        ]
        command_addresses = wait(connecting)[len(self.encoders) :]
        self._command_senders = {
            name: CommandSender(*address)
            for name, address in zip(self.decoders, command_addresses, strict=True)
        }

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Nothing to do: the receiver belongs to the loop that first waits for it."""

    def detach(self) -> None:
        for sender in self._command_senders.values():
            sender.close()
        if self._receiver is not None:
            self._receiver.close()
        self._command_senders, self._receiver = {}, None

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

    # ------------------------------------------------------------------ requests

    def keep(self, key: str, payload: Any) -> Any:
        large = isinstance(payload, np.ndarray) and payload.nbytes >= self._store_bytes
        return self._store.put_once(key, payload) if large else payload

    def submit(self, decoder: str, requests: list[Request]) -> None:
        for request in requests:
            self._store.use(request)
        stored = [request for request in requests if _is_stored(request)]
        direct = [request for request in requests if not _is_stored(request)]
        if direct:
            self._command_senders[decoder].send(Submit(direct))
        if stored:  # only Ray can pass a reference into its object store on
            self.decoders[decoder].receive.remote(Submit(stored))

    def cancel(self, decoder: str, request: Request) -> None:
        self._send(decoder, request, Cancel(request.id))

    def stop(self, decoder: str, request: Request) -> None:
        self._send(decoder, request, Stop(request.id))

    def _send(self, decoder: str, request: Request, message: Cancel | Stop) -> None:
        """Uses the request's own transport, so the message cannot overtake it."""
        if _is_stored(request):
            self.decoders[decoder].receive.remote(message)
        else:
            self._command_senders[decoder].send(message)

    def release(self, request: Request) -> None:
        self._store.release(request)

    async def receive(self) -> StepOutput:
        assert self._receiver is not None
        return await self._receiver.receive()

    # ------------------------------------------------------------------ health

    async def watch(self) -> None:
        watches = [asyncio.ensure_future(_ending(worker)) for worker in self.all]
        try:
            await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for watch in watches:
                watch.cancel()
        raise next(
            EngineDeadError(watch.result())
            for watch in watches
            if watch.done() and not watch.cancelled()
        )

    async def stats(self) -> list[dict[str, int]]:
        return list(
            await asyncio.gather(*(worker.stats.remote() for worker in self.decoders.values()))
        )


def _is_stored(request: Request) -> bool:
    return any(isinstance(media.payload, Stored) for media in request.inputs)


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
            workers.connect(OutputReceiver(node_address()), wait)
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
