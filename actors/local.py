"""Both halves in this process, without Ray: for one file, a notebook, a test, or a benchmark."""

import asyncio
import atexit
import os
import threading
from collections.abc import Callable
from typing import ClassVar

from antiphon.actors.colocated_actor import ColocatedActor
from antiphon.actors.messages import Cancel, Stop, Submit
from antiphon.actors.workers import Workers
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.errors import EngineDeadError
from antiphon.config.options import EngineConfig, check_one_process
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.forks import refuse_in_fork
from antiphon.scheduler.request import Request, StepOutput

CHECK_SECONDS = 0.2  # how often `watch` checks the threads
EXIT_SECONDS = 5.0  # how long the program's exit waits for weights that are being loaded
CLOSE_SECONDS = 1.0  # for the step in flight; an encoder's batch on a CPU may take longer


class LocalWorkers(Workers):
    """An encoder and a decoder worker, each a thread. The constructor loads their weights."""

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
        self._actor = ColocatedActor()
        loaded = threading.Event()
        # The interpreter must not end while a thread runs native code.
        atexit.register(loaded.wait, EXIT_SECONDS)
        try:
            self.info = {
                "placement": "in this process",
                **self._actor.load(model, config, "decoder-0", rules),
            }
        finally:
            loaded.set()
            atexit.unregister(loaded.wait)
        self._pid = os.getpid()
        atexit.register(self.close)  # for the same reason

    def start(self, send: Callable[[StepOutput], None]) -> None:
        """Starts the workers. `send` gets every output, in the decoder's thread."""
        self._actor.start(send)

    def submit(self, decoder: str, requests: list[Request]) -> None:
        self._actor.receive(Submit(requests))

    def cancel(self, decoder: str, request: Request) -> None:
        self._actor.receive(Cancel(request.id))

    def stop(self, decoder: str, request: Request) -> None:
        self._actor.receive(Stop(request.id))

    def failure(self) -> BaseException | None:
        """The error that ended a worker's thread, if one has ended."""
        return next((loop.failure for loop in self._actor.loops if loop.failure is not None), None)

    def counters(self) -> dict[str, int]:
        return self._actor.stats()

    async def stats(self) -> list[dict[str, int]]:
        return [self.counters()]

    async def receive(self) -> StepOutput:
        return await self._outputs.get()

    async def watch(self) -> None:
        while (failure := self.failure()) is None:
            await asyncio.sleep(CHECK_SECONDS)
        raise EngineDeadError(f"a worker ended: {type(failure).__name__}: {failure}") from failure

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the workers; `receive` returns their outputs in `loop`."""
        self._outputs: asyncio.Queue[StepOutput] = asyncio.Queue()

        def send(output: StepOutput) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._outputs.put_nowait, output)

        self.start(send)

    def detach(self) -> None:
        """Nothing to do: outputs that still come stay in the queue."""

    def close(self) -> None:
        atexit.unregister(self.close)
        if os.getpid() == self._pid:  # a forked child has none of the threads
            self._actor.close(CLOSE_SECONDS)
