"""The engine: takes prompts in, follows each request to its one end, gives text back. It never touches hidden states.

`AsyncEngine` runs in the caller's event loop; `antiphon.engine.sync_engine.Engine` is its synchronous face.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Never, Self, TypeVar

from antiphon.actors.workers import Workers
from antiphon.config.errors import (
    EngineDeadError,
    SamplingError,
)
from antiphon.config.options import resolve
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.room import check_room
from antiphon.engine.budget import ByteBudget
from antiphon.engine.deadline import Deadline
from antiphon.engine.outputs import CompletionOutput, RequestOutput, StreamDelta, Transcription
from antiphon.engine.requests import OpenRequest, OpenRequests
from antiphon.engine.transcription import Transcriber
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.audio.forms import AudioInput
from antiphon.inputs.calls.options import (
    DETECTION_NAMES,
    checked_params,
    checked_priority,
    refuse_unknown,
)
from antiphon.inputs.prepared import EncoderInput, Prepared
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.prompts import Prompt
from antiphon.runtime.forks import COPIED, REMEDY
from antiphon.runtime.threads import DaemonThreads
from antiphon.scheduler.router import Router

logger = logging.getLogger(__name__)

T = TypeVar("T")

INPUT_BYTES = 2 << 30  # of sound that is in memory for open calls: 9 hours
LOOK_SECONDS = 0.2  # how often who closes from elsewhere looks whether the engine's loop still runs
CLOSING_SECONDS = 0.01  # how often who waits for the workers' end looks
INPUT_THREADS = (
    32  # they mostly wait: for the object store, which takes what all of them bring together
)


class AsyncEngine:
    """`async with AsyncEngine(model) as engine`, or `await start()` and `await close()`.

    `model` is a hub id or a folder in transformers format; options are the fields of `antiphon.config.options`.
    The constructor checks options and reads the checkpoint's descriptions; weights load in `start`. An engine belongs to the
    process and the event loop that started it: calls from others raise EngineDeadError.
    """

    def __init__(self, model: str, **options: Any) -> None:
        self.config = resolve(model, options)
        self.model = ModelConfig.load(self.config.model)
        if (
            self.config.model.device == "cpu"
        ):  # what other devices have free, only their workers know
            check_room(self.model, self.config)
        self.inputs = InputProcessor(self.model, self.config.encoder.encoder_window)
        self.router = Router(
            self.config.encoder.encoder_replicas, self.config.decoder.decoder_replicas
        )
        self.requests = OpenRequests(self.inputs, self.router, self.config.decoder.decoder_replicas)
        self._dead: str | None = "the engine has not been started: use 'with', or call start()"
        self.memory = ByteBudget(INPUT_BYTES)
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._start_lock = asyncio.Lock()
        self._ending: Future[None] | None = None  # of workers that are being closed
        self._pid = os.getpid()

    @property
    def workers(self) -> Workers | None:
        """While the engine runs."""
        return self.requests.workers

    def __repr__(self) -> str:
        state = self._dead or self.workers_line()
        return f"{type(self).__name__}({self.config.model.model!r}: {state})"

    def __reduce__(self) -> Never:
        raise TypeError(COPIED)

    # ------------------------------------------------------------------ life

    async def start(self) -> Self:
        """Starts the workers and loads their weights; with Ray, joins or starts that before. Raises what these raise. May be called
        again, and by several tasks at once."""
        async with self._start_lock:
            return await self._start()

    async def _start(self) -> Self:
        if self.workers is not None:
            self.check_caller()
            return self
        self._pid = os.getpid()  # it may have been made before a fork
        began, given_up = time.monotonic(), threading.Event()
        logger.info("loading %s", self.config.model.model)
        starting = _in_own_thread(self._launch, given_up)
        try:
            self.requests.workers = workers = await asyncio.wrap_future(starting)
        except asyncio.CancelledError:
            given_up.set()
            starting.add_done_callback(_close_if_started)
            raise
        self._loop, self._dead = asyncio.get_running_loop(), None
        self._threads = DaemonThreads(INPUT_THREADS, "antiphon-inputs")
        workers.attach(self._loop)
        works = (partial(self._receive, workers), workers.watch)
        self._tasks = [asyncio.create_task(self._supervise(work)) for work in works]
        logger.info("ready after %.1f s: %s", time.monotonic() - began, self.workers_line())
        return self

    def _launch(self, given_up: threading.Event) -> Workers:
        rules = self.inputs.whisper.rules() if self.inputs.whisper else None
        if not self.config.placement.ray:
            from antiphon.actors.local import LocalWorkers  # neither needs what the other imports

            return LocalWorkers(self.model, self.config, rules)
        from antiphon.actors.cluster import launch

        return launch(self.model, self.config, rules, given_up)

    async def close(self) -> None:
        """Ends open requests with EngineDeadError, stops the workers, leaves Ray if it was the last. May be called twice, and
        from another event loop."""
        if self._loop is not asyncio.get_running_loop():
            await (
                self._close_in_own_loop()
            )  # if that still runs, in another thread: what waits there is woken there
        if os.getpid() != self._pid:
            return
        if self.workers is not None:
            workers, self.requests.workers = self.workers, None
            self._die("the engine was closed")
            try:
                await self._end_tasks()
            finally:  # even where the loop ends meanwhile, and cancels this
                workers.detach()
                self._threads.shutdown(wait=False, cancel_futures=True)
                self._ending = _in_own_thread(workers.close)
        while (
            self._ending is not None and not self._ending.done()
        ):  # several may wait, in different loops, or stop waiting
            await asyncio.sleep(CLOSING_SECONDS)
        if self._ending is not None:
            self._ending.result()

    async def _end_tasks(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            for task in self._tasks:
                task.cancel()
        if asyncio.get_running_loop() is self._loop:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _close_in_own_loop(self) -> None:
        if self._loop is None or not self._loop.is_running() or os.getpid() != self._pid:
            return
        closing = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.close(), self._loop))
        while self._loop.is_running() and not closing.done():
            await asyncio.wait([closing], timeout=LOOK_SECONDS)
        if closing.done() and not closing.cancelled():  # else that loop has ended meanwhile
            await closing

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def check_caller(self) -> None:
        """Raises EngineDeadError where a call would wait for ever: the engine has ended, or is another process's or loop's."""
        if os.getpid() != self._pid:
            raise EngineDeadError(
                f"this engine belongs to process {self._pid}, from which this one was forked; {REMEDY}"
            )
        if self._dead is not None:
            raise EngineDeadError(self._dead)
        if asyncio.get_running_loop() is not self._loop:
            raise EngineDeadError(
                "this engine was started in another event loop: use it there, or close it and start it in this one "
                "(Engine, the synchronous one, may be called from anywhere)"
            )

    def workers_line(self) -> str:
        """What was chosen, in one line."""
        info = self.workers.info if self.workers is not None else {}
        halves = [
            f"{half} {info[half]['attention']} ({info[half]['dtype'].removeprefix('torch.')}, {info[half]['device']})"
            for half in ("encoder", "decoder")
            if half in info
        ]
        if "decoder" in info:
            halves.append(
                f"{info['decoder']['kv_pages']} KV pages of {self.config.decoder.kv_page_size} tokens"
            )
            halves.append("CUDA graphs" if info["decoder"]["graphs"] else "no CUDA graphs")
        return ", ".join([*halves, *([info["placement"]] if info else [])])

    async def _supervise(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A task that ends by itself ends the engine: nobody may wait for what it would have done."""
        try:
            await work()
            self._die("a task of the engine ended")
        except EngineDeadError as error:
            self._die(str(error))
        except Exception as error:
            logger.exception("a task of the engine failed")
            self._die(f"the engine failed: {type(error).__name__}: {error}")

    def _die(self, reason: str) -> None:
        """No new requests; every open one ends now."""
        self._dead = self._dead or reason
        self.requests.end_all(
            self._dead, loop_is_closed=self._loop is None or self._loop.is_closed()
        )

    # ------------------------------------------------------------------ one request

    def submit(
        self, prepared: Prepared, prompt_token_ids: list[int], **options: Any
    ) -> OpenRequest:
        """As `OpenRequests.submit`. Raises EngineDeadError."""
        self.check_caller()
        return self.requests.submit(prepared, prompt_token_ids, **options)

    def stored(self, media: EncoderInput) -> EncoderInput:
        """`media` in the form in which it travels. For a thread: that may take milliseconds, in which the loop could take a thousand
        tokens."""
        payload = (
            media.payload if self.workers is None else self.workers.keep(media.key, media.payload)
        )
        return media if payload is media.payload else replace(media, payload=payload)

    async def result(self, opened: OpenRequest) -> CompletionOutput:
        """The end of one request. Raises the RequestError it ended with; cancels it when the caller is cancelled."""
        return self.requests.completion(opened, await self.requests.end(opened), 0)

    async def _receive(self, workers: Workers) -> None:
        while True:
            output = await workers.receive()
            self.requests.take(output)

    # ------------------------------------------------------------------ what callers use

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        sampling_params: SamplingParams | None = None,
        priority: int = 0,
        timeout: float | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
        **unknown: Any,
    ) -> RequestOutput:
        """One prompt to its end. Raises InputError, RequestError, or ConfigurationError for an unknown keyword.

        `timeout`: seconds until it expires, reading and language detection included. Languages are for translation models, in
        any spelling; those that the prompt itself names go first. `sampling_params` is vLLM's name for `params`.
        """
        self.check_caller()
        refuse_unknown("generate()", unknown)
        params, deadline = checked_params(params, sampling_params), Deadline(timeout)
        priority = checked_priority(priority)
        languages = (source_language, target_language)
        async with (
            deadline.limit(),
            self._prepared(prompt, params, languages, priority, deadline) as (prepared, prompt_ids),
        ):
            opened = [
                self.submit(
                    prepared,
                    prompt_ids,
                    sample=sample,
                    priority=priority,
                    timeout=deadline.seconds_left,
                )
                for sample in range(params.n)
            ]
            try:
                if len(opened) == 1:  # without a task of its own: three turns of the loop less
                    ends = [await self.requests.end(opened[0])]
                else:
                    ends = await asyncio.gather(*(self.requests.end(each) for each in opened))
            except BaseException:
                for each in opened:
                    self.requests.cancel(each)
                raise
        completions = [
            self.requests.completion(each, end, index)
            for index, (each, end) in enumerate(zip(opened, ends, strict=True))
        ]
        return RequestOutput(str(opened[0].request.id), prompt_ids, completions, ends[0].metrics)

    async def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        sampling_params: SamplingParams | None = None,
        priority: int = 0,
        timeout: float | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
        **unknown: Any,
    ) -> AsyncIterator[StreamDelta]:
        """New text as it comes; the last delta has the finish reason. Leaving the loop early cancels the request. Options: as
        `generate`."""
        self.check_caller()
        refuse_unknown("stream()", unknown)
        params, deadline = checked_params(params, sampling_params), Deadline(timeout)
        priority = checked_priority(priority)
        if params.n != 1:
            raise SamplingError(f"stream() gives one sample, not n={params.n}: use generate()")
        languages = (source_language, target_language)
        async with AsyncExitStack() as scope:
            async with deadline.limit():
                preparing = self._prepared(prompt, params, languages, priority, deadline)
                prepared, prompt_ids = await scope.enter_async_context(preparing)
            opened = self.submit(
                prepared, prompt_ids, stream=True, priority=priority, timeout=deadline.seconds_left
            )
            scope.callback(self.requests.cancel, opened)
            assert opened.text is not None
            sent = 0
            while not opened.end.done():
                async with deadline.limit():
                    await opened.news.wait()
                opened.news.clear()
                if not opened.end.done():
                    tokens = opened.text.token_ids[sent:]
                    sent += len(tokens)
                    yield StreamDelta(opened.text.take(), tokens)
            end = await self.requests.end(opened)
        reason = "stop" if opened.text.stopped else end.reason
        yield StreamDelta(opened.text.take(final=True), opened.text.token_ids[sent:], reason)

    @asynccontextmanager
    async def _prepared(
        self,
        prompt: Prompt,
        params: SamplingParams,
        languages: tuple[str | None, str | None],
        priority: int,
        deadline: Deadline,
    ) -> AsyncIterator[tuple[Prepared, list[int]]]:
        """Reads, checks, tokenises and stores in a thread; finds the language where a Whisper prompt leaves it open. Its sound
        counts as held until the end."""
        async with self.memory.hold(self.inputs.expected_bytes(prompt)) as held:
            prepared, num_bytes = await self.run_in_thread(self._read, prompt, params, *languages)
            held.set(num_bytes)
            prompt_ids = prepared.prompt_token_ids
            if prompt_ids is None:
                prompt_ids = await Transcriber(self).default_prompt(
                    prepared.media, priority, deadline
                )
            yield prepared, prompt_ids

    def _read(
        self,
        prompt: Prompt,
        params: SamplingParams,
        source_language: str | None,
        target_language: str | None,
    ) -> tuple[Prepared, int]:
        """And the bytes of its sound; text counts for nothing."""
        prepared = self.inputs.prepare(prompt, params, source_language, target_language)
        num_bytes = prepared.media.payload.nbytes if prepared.media.kind == "audio" else 0
        media = self.stored(prepared.media)
        return prepared if media is prepared.media else replace(prepared, media=media), num_bytes

    async def transcribe(self, audio: AudioInput, **options: Any) -> Transcription:
        """A recording of any length. Options: language, task, timestamps, chunk_seconds, params, priority, timeout, progress (see
        `Transcriber.transcribe`)."""
        self.check_caller()
        return await Transcriber(self).transcribe(audio, **options)

    async def detect_language(
        self, audio: AudioInput, *, priority: int = 0, timeout: float | None = None, **unknown: Any
    ) -> dict[str, float]:
        """The probability of each language that the model knows, likeliest first (see `Transcriber.detect_languages`). Raises
        ConfigurationError for an unknown keyword."""
        self.check_caller()
        refuse_unknown("detect_language()", unknown, DETECTION_NAMES)
        return await Transcriber(self).detect_languages(audio, priority=priority, timeout=timeout)

    async def stats(self) -> dict[str, int]:
        """Sums of the decoder workers' counters: encodes, cross_cache_hits, preemptions, steps, tokens, kv_pages, ..."""
        self.check_caller()
        assert self.workers is not None
        total: dict[str, int] = {}
        for counters in await self.workers.stats():
            for name, value in counters.items():
                total[name] = total.get(name, 0) + value
        return total

    async def run_in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def _in_own_thread(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """For a start or a close, in a thread that ends with it: a program may make many engines."""
    thread = DaemonThreads(1, "antiphon-life")
    outcome = thread.submit(function, *arguments)
    thread.shutdown(wait=False)
    return outcome


def _close_if_started(starting: Future[Workers]) -> None:
    """For a start that nobody waits for any more."""
    if starting.exception() is None:
        starting.result().close()
