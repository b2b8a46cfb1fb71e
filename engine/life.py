"""The life of an engine: starts its workers, supervises them, closes them, and checks who calls.

While its loop runs, an engine that the program drops is not collected: its tasks, which the loop
holds, serve its open requests. Once the loop has ended it is collected, and its workers are closed.
"""

import asyncio
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Never, ParamSpec, Self, TypeVar

from antiphon.actors.workers import Workers
from antiphon.config.errors import EngineDeadError, describe
from antiphon.config.options import EngineConfig
from antiphon.engine.checked import checked
from antiphon.engine.preparation import Preparation
from antiphon.engine.requests import OpenRequests
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.draft import looks_up
from antiphon.inputs.encoder_inputs import EncoderInputs
from antiphon.inputs.images.limits import ImageLimits
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.warm_up import warm_up
from antiphon.runtime.forks import COPIED, REMEDY
from antiphon.runtime.threads import DaemonThreads

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

LOOP_CHECK_SECONDS = 0.2  # how often a close from another loop checks that the engine's still runs
CLOSING_CHECK_SECONDS = 0.01  # how often a close checks whether the workers have ended


class EngineLife:
    """What `AsyncEngine` does beside answering calls."""

    def __init__(self, model: str, **options: Any) -> None:
        self._make(*checked(model, options))

    @classmethod
    async def attach(cls, name: str, *, address: str | None = None) -> Self:
        """Shares the workers of an engine that another process, or this one, has started with this
        `name`, and is started itself.

        `address`: of the Ray cluster, as for an engine. Its close leaves the workers to the others;
        they end with the engine that started them, and this one then raises EngineDeadError. Raises
        ConfigurationError if no engine has this name, and CheckpointError if this machine lacks
        the checkpoint's description and tokenizer.
        """
        from antiphon.actors.launch import find  # not above: Ray takes seconds to import

        running = await asyncio.wrap_future(_in_own_thread(find, name, address))
        engine = cls.__new__(cls)
        try:
            model = await asyncio.to_thread(ModelConfig.load, running.model_options)
            engine._make(running.config, model, running.workers)
        except BaseException:
            running.leave()
            raise
        return await engine.start()

    def _make(
        self,
        config: EngineConfig,
        model: ModelConfig,
        attached: Callable[[], Workers] | None = None,
    ) -> None:
        """`attached`: makes this engine's share of running workers."""
        self.config, self.model, self._attached = config, model, attached
        images = ImageLimits.of(config.model)
        self.inputs = InputProcessor(
            self.model, config.encoder.window, images, config.decoder.enable_word_timestamps
        )
        self.encoder_inputs = EncoderInputs(self.inputs)
        self.requests = OpenRequests(
            self.inputs, config.encoder.replicas, config.decoder.replicas, looks_up(model, config)
        )
        self.preparation = Preparation(self.inputs)
        self._dead: str | None = "the engine has not been started: use 'with', or call start()"
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._start_lock = asyncio.Lock()
        self._closing: Future[None] | None = None  # of workers that are being closed
        self._dropped: weakref.finalize[[Workers, Preparation, int], Self] | None = None
        self._pid = os.getpid()

    @property
    def workers(self) -> Workers | None:
        """None unless the engine runs."""
        return self.requests.dispatcher.workers

    def __repr__(self) -> str:
        state = self._dead or self.workers_line()
        return f"{type(self).__name__}({self.config.model.model!r}: {state})"

    def __reduce__(self) -> Never:
        raise TypeError(COPIED)

    def workers_line(self) -> str:
        """What was chosen for the workers, in one line."""
        if self.workers is None:
            return ""
        info = self.workers.info
        parts = []
        for half in ("encoder", "decoder"):
            if chosen := info.get(half):
                dtype = chosen["dtype"].removeprefix("torch.")
                parts.append(f"{half} {chosen['attention']} ({dtype}, {chosen['device']})")
        if decoder := info.get("decoder"):
            page_size = self.config.decoder.kv_page_size
            parts.append(f"{decoder['kv_pages']} KV pages of {page_size} tokens")
            if states := decoder["hidden_state_pages"]:
                parts.append(f"{states} pages of hidden states")
            parts.append("CUDA graphs" if decoder["graphs"] else "no CUDA graphs")
        return ", ".join([*parts, info["placement"]])

    # ------------------------------------------------------------------ start

    async def start(self) -> Self:
        """Starts the workers and loads their weights; with Ray, joins or starts a cluster before.

        May be called again, and by several tasks at once. Raises ConfigurationError,
        CheckpointError or EngineDeadError if the workers cannot start.
        """
        async with self._start_lock:
            return await self._start()

    async def _start(self) -> Self:
        if self.workers is not None:
            self.check_caller()
            return self
        self._pid = os.getpid()  # the engine may have been made before a fork
        began, given_up = time.monotonic(), threading.Event()
        logger.info("loading %s", self.config.model.model)
        starting = _in_own_thread(self._launch, given_up)
        try:
            warming = _meanwhile(partial(warm_up, self.inputs, self.encoder_inputs))
            workers, _ = await asyncio.gather(
                asyncio.wrap_future(starting), asyncio.wrap_future(warming)
            )
        except BaseException:  # workers may be there already, or come later
            given_up.set()
            starting.add_done_callback(lambda done: _in_own_thread(_close_if_started, done))
            raise
        self._loop, self._dead = asyncio.get_running_loop(), None
        self.requests.connect(workers)
        self.preparation.start()
        workers.attach(self.requests.frontend, self._loop, self.requests.handle)
        self._dropped = weakref.finalize(self, _close_dropped, workers, self.preparation, self._pid)
        self._dropped.atexit = False  # workers are closed at exit anyway
        works = (workers.watch, self.requests.flights.watch)
        self._tasks = [asyncio.create_task(self._supervise(work)) for work in works]
        logger.info("ready after %.1f s: %s", time.monotonic() - began, self.workers_line())
        return self

    def _launch(self, given_up: threading.Event) -> Workers:
        if self._attached is not None:
            return self._attached()
        rules = self.inputs.whisper.rules() if self.inputs.whisper else None
        if not self.config.workers.ray:
            from antiphon.actors.local import LocalWorkers  # not above: it does not need Ray

            return LocalWorkers(self.model, self.config, rules)
        from antiphon.actors.launch import launch  # not above: Ray takes seconds to import

        return launch(self.model, self.config, rules, given_up)

    # ------------------------------------------------------------------ while it runs

    def check_caller(self) -> None:
        """Raises EngineDeadError where a call would wait for ever: the engine has ended, or belongs
        to another process or event loop."""
        if os.getpid() != self._pid:
            raise EngineDeadError(
                f"this engine belongs to process {self._pid}, "
                f"from which this one was forked; {REMEDY}"
            )
        if self._dead is not None:
            raise EngineDeadError(self._dead)
        if asyncio.get_running_loop() is not self._loop:
            raise EngineDeadError(
                "this engine was started in another event loop: use it there, or close it and "
                "start it in this one (Engine, the synchronous one, may be called from anywhere)"
            )

    async def _supervise(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Ends the engine when a task ends by itself: no caller may wait for what it would do."""
        try:
            await work()
            self._die("a task of the engine ended")
        except EngineDeadError as error:
            self._die(str(error))
        except Exception as error:
            logger.exception("a task of the engine failed")
            self._die(f"the engine failed: {describe(error)}")

    def _die(self, reason: str) -> None:
        """Accepts no more requests, and ends every open one."""
        self._dead = self._dead or reason
        loop_is_closed = self._loop is None or self._loop.is_closed()
        self.requests.end_all(self._dead, loop_is_closed)
        if not loop_is_closed:
            self.preparation.waits.end(self._dead)

    # ------------------------------------------------------------------ close

    async def close(self) -> None:
        """Ends open requests with EngineDeadError and stops the workers; leaves Ray if this was the
        last engine. May be called twice, and from another event loop."""
        if self._loop is not asyncio.get_running_loop():
            await self._close_in_own_loop()  # calls that wait there must be woken there
        if os.getpid() != self._pid:
            return
        if (workers := self.workers) is not None:
            self.requests.dispatcher.workers = None
            if self._dropped is not None:
                self._dropped.detach()
            try:
                self._die("the engine was closed")
                await self._end_tasks()
            finally:  # even if the loop ends meanwhile, and cancels this call
                try:
                    workers.detach()
                finally:
                    self._closing = _in_own_thread(workers.close)
                    self.preparation.stop()
        # Several callers may wait, in different loops, or stop waiting.
        while self._closing is not None and not self._closing.done():
            await asyncio.sleep(CLOSING_CHECK_SECONDS)
        if self._closing is not None:
            self._closing.result()

    async def _end_tasks(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            for task in self._tasks:
                task.cancel()
        if asyncio.get_running_loop() is self._loop:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _close_in_own_loop(self) -> None:
        """Closes the engine in its own loop, if that still runs in another thread."""
        if self._loop is None or not self._loop.is_running() or os.getpid() != self._pid:
            return
        closing = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.close(), self._loop))
        while self._loop.is_running() and not closing.done():
            await asyncio.wait([closing], timeout=LOOP_CHECK_SECONDS)
        if closing.done() and not closing.cancelled():  # else that loop has ended meanwhile
            await closing

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _in_own_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """For a start or a close, in a thread that ends with it: a program may make many engines."""
    thread = DaemonThreads(1, "antiphon-life")
    future = thread.submit(function, *args, **kwargs)
    thread.shutdown(wait=False)
    return future


def _meanwhile(function: Callable[[], None]) -> Future[None]:
    """In a thread that the program's end waits for: torch aborts where a thread of it is ended."""
    threads = ThreadPoolExecutor(1, "antiphon-meanwhile")
    future = threads.submit(function)
    threads.shutdown(wait=False)
    return future


def _close_dropped(workers: Workers, preparation: Preparation, pid: int) -> None:
    """For an engine that was collected, which may happen in any thread and in a forked process."""
    if os.getpid() == pid and not sys.is_finalizing():
        logger.info("closing the workers of an engine that was dropped without close()")
        preparation.stop()
        _in_own_thread(_end, workers)


def _end(workers: Workers) -> None:
    try:
        workers.detach()
    finally:
        workers.close()


def _close_if_started(starting: Future[Workers]) -> None:
    """Closes the workers of a start that no caller waits for any more."""
    if starting.exception() is None:
        starting.result().close()
