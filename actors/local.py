"""Both halves in this process, without Ray: for one file, a notebook, a test, or a benchmark."""

import asyncio
import atexit
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from antiphon.actors.base_actor import LeaderActor
from antiphon.actors.colocated_actor import ColocatedActor
from antiphon.actors.decoder_actor import DecoderActor
from antiphon.actors.encoder_actor import EncoderActor
from antiphon.actors.messages import FrontendMessage, Message
from antiphon.actors.workers import Handle, Workers
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.errors import EngineDeadError, describe
from antiphon.config.options import EngineConfig, check_one_process
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.forks import refuse_in_fork
from antiphon.scheduler.request import Incarnation

CHECK_SECONDS = 0.2  # how often `watch` checks the threads
EXIT_SECONDS = 5.0  # how long the program's exit waits for weights that are being loaded
CLOSE_SECONDS = 1.0  # for the step in flight; an encoder's batch on a CPU may take longer


@dataclass(frozen=True)
class ThreadPeer:
    """A frontend in the workers' process. `send` gives it a message, in the sender's thread."""

    send: Callable[[FrontendMessage], None]
    in_this_process: bool = True


class LocalWorkers(Workers):
    """An encoder (if the model has one) and a decoder worker, each a thread. The constructor loads
    their weights."""

    # The process in which the first of them was made: forked children inherit it.
    _first_pid: ClassVar[int | None] = None

    def __init__(
        self, model: ModelConfig, config: EngineConfig, rules: TimestampRules | None
    ) -> None:
        """Raises ConfigurationError if an option needs more processes, and in a child forked from a
        process that had made workers: neither OpenMP nor CUDA works in it. Raises what the loading
        raises."""
        check_one_process(config)
        LocalWorkers._first_pid = LocalWorkers._first_pid or os.getpid()
        refuse_in_fork(LocalWorkers._first_pid, "run an engine in itself")
        self.colocated = model.encoder is not None
        self._actor: LeaderActor
        loaded = threading.Event()
        # The interpreter must not end while a thread runs native code.
        atexit.register(loaded.wait, EXIT_SECONDS)
        try:
            self.info = {"placement": "in this process", **self._load(model, config, rules)}
        finally:
            loaded.set()
            atexit.unregister(loaded.wait)
        self._failed: Exception | None = None  # what receiving a message raised
        self._pid = os.getpid()
        atexit.register(self.close)  # for the same reason

    def _load(
        self, model: ModelConfig, config: EngineConfig, rules: TimestampRules | None
    ) -> dict[str, Any]:
        """Makes the actor of the halves that there are. Returns its `info`."""
        if model.decoder_half is None:
            self._actor = encoder = EncoderActor()
            return encoder.load(Incarnation("encoder-0", 0), model, config, 1.0)
        self._actor = decoder = ColocatedActor() if self.colocated else DecoderActor()
        return decoder.load(Incarnation("decoder-0", 0), model, config, rules)

    def start(self, frontend: str, handle: Callable[[FrontendMessage], None]) -> None:
        """Starts the workers. `handle` gets every message to `frontend`, in a worker's thread."""
        self._actor.start("", {frontend: ThreadPeer(handle)})

    def send(self, worker: str, message: Message) -> None:
        self._actor.receive(message)

    def failure(self) -> BaseException | None:
        """The error that ended a worker's thread, if one has ended."""
        return next((loop.failure for loop in self._actor.loops if loop.failure is not None), None)

    def counters(self) -> dict[str, int]:
        return self._actor.stats()

    async def stats(self) -> list[dict[str, int]]:
        return [self.counters()]

    async def watch(self) -> None:
        while (failure := self.failure()) is None:
            if self._failed is not None:
                raise self._failed
            await asyncio.sleep(CHECK_SECONDS)
        raise EngineDeadError(f"a worker ended: {describe(failure)}") from failure

    def attach(self, frontend: str, loop: asyncio.AbstractEventLoop, handle: Handle) -> None:
        """Starts the workers."""

        def receive(message: FrontendMessage) -> None:
            try:
                if self._failed is None:
                    handle(message)
            except Exception as error:
                self._failed = error

        def send(message: FrontendMessage) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits for it
                loop.call_soon_threadsafe(receive, message)

        self.start(frontend, send)

    def introduce(self) -> None:
        """Nothing to do: they know each other."""

    def detach(self) -> None:
        """Nothing to do: the engine has no use for messages that still come."""

    def close(self) -> None:
        atexit.unregister(self.close)
        if os.getpid() == self._pid:  # a forked child has none of the threads
            self._actor.close(CLOSE_SECONDS)
