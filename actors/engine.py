"""The engine: takes prompts in, follows each request to its one end, gives text back. It never touches hidden states.

`AsyncEngine` runs in the caller's event loop; `antiphon.client.engine.Engine` is its synchronous face.
"""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
import ray

from antiphon.actors.channel import CommandSender, OutputReceiver, node_address
from antiphon.actors.cluster import Workers, connection, launch
from antiphon.actors.outputs import CompletionOutput, Logprob, RequestOutput, StreamDelta, Transcription
from antiphon.actors.payloads import PayloadStore, Stored
from antiphon.actors.transcription import Transcriber
from antiphon.config.errors import (
    EngineDeadError,
    RequestCancelled,
    RequestError,
    RequestExpired,
    RequestFailed,
    RequestRefused,
    SamplingError,
)
from antiphon.config.model import ModelConfig
from antiphon.config.options import resolve
from antiphon.config.sampling import SamplingParams
from antiphon.inputs.audio import AudioInput
from antiphon.inputs.detokenise import TextStream
from antiphon.inputs.processor import EncoderInput, InputProcessor, Prepared
from antiphon.inputs.prompts import Prompt
from antiphon.scheduler.request import Finished, Media, Request, RequestState, StepOutput
from antiphon.scheduler.router import Router

ERRORS: dict[RequestState, type[RequestError]] = {
    RequestState.REFUSED: RequestRefused,
    RequestState.CANCELLED: RequestCancelled,
    RequestState.EXPIRED: RequestExpired,
    RequestState.FAILED: RequestFailed,
}
# Larger inputs go through Ray's object store, smaller ones with their request: to a decoder, and where the encoder is elsewhere on from it.
PUT_BYTES = {"colocated": 1 << 20, "disaggregated": 1 << 15}
INPUT_THREADS = 32  # they mostly wait: for the object store, which takes what all of them bring together


@dataclass
class OpenRequest:
    """What the engine knows of a request that has not ended."""

    request: Request
    place: tuple[int, int]  # encoder and decoder
    end: asyncio.Future[Finished]
    text: TextStream | None = None  # of requests that stream or have stop strings
    news: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class _Payload:
    """An input in Ray's object store, kept while any open request may need it encoded."""

    stored: Stored
    users: int = 0


class AsyncEngine:
    """`async with AsyncEngine(model) as engine`, or `await start()` and `await close()`.

    `model` is a hub id or a folder in transformers format; options are the fields of `antiphon.config.options`.
    The constructor checks options and reads the checkpoint's descriptions; weights load in `start`.
    """

    def __init__(self, model: str, **options: Any) -> None:
        self.config = resolve(model, options)
        self.model = ModelConfig.load(self.config.model)
        self.inputs = InputProcessor(self.model, self.config.encoder.encoder_window)
        self.router = Router(self.config.encoder.encoder_replicas, self.config.decoder.decoder_replicas)
        self.workers: Workers | None = None
        self._links: list[CommandSender] = []
        self._open: dict[int, OpenRequest] = {}
        self._store = PayloadStore()
        self._payloads: dict[str, _Payload] = {}
        self._ids = itertools.count()
        self._outbox: list[list[Request]] = [[] for _ in range(self.config.decoder.decoder_replicas)]
        self._flush_due = False
        self._dead: EngineDeadError | None = EngineDeadError("the engine has not been started: use 'with', or call start()")
        self._threads = ThreadPoolExecutor(INPUT_THREADS, thread_name_prefix="antiphon-inputs")
        self._tasks: list[asyncio.Task[None]] = []

    # ------------------------------------------------------------------ life

    async def start(self) -> Self:
        """Joins or starts Ray, starts the workers and loads their weights. Raises what that raises."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, connection.join, self.config.placement.address)
        rules = self.inputs.whisper.rules() if self.inputs.whisper else None
        with ExitStack() as undo:  # of what was done before a step that fails
            undo.callback(connection.leave)
            self._receiver = OutputReceiver(node_address())
            undo.callback(self._receiver.close)
            self.workers = await loop.run_in_executor(
                None, launch, self.model, self.config, rules, self._receiver.address, self._receiver.token
            )
            undo.pop_all()
        self._links = [CommandSender(*each) for each in self.workers.links]
        self._put_bytes = PUT_BYTES[self.workers.facts["placement"]]
        self._dead = None
        watches = [worker.watch.remote() for worker in self.workers.all]
        self._tasks = [asyncio.create_task(self._receive()), *(asyncio.create_task(self._watch(each)) for each in watches)]
        return self

    async def close(self) -> None:
        """Ends open requests with EngineDeadError, stops the workers, leaves Ray if it was the last."""
        if self.workers is None:
            return
        self._die(EngineDeadError("the engine was closed"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._receiver.close()
        for link in self._links:
            link.close()
        self.workers.kill()
        self.workers = None
        self._threads.shutdown(wait=False, cancel_futures=True)
        connection.leave()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _watch(self, reference: Any) -> None:
        """Waits for a worker to end, which it never does while all is well."""
        try:
            await reference
            error = EngineDeadError("a worker stopped")
        except ray.exceptions.RayError as failure:
            error = EngineDeadError(f"a worker process is gone: {str(failure).strip().splitlines()[-1]}")
        self._die(error)

    def _die(self, error: EngineDeadError) -> None:
        """No new requests; every open one ends now."""
        self._dead = self._dead or error
        for each in list(self._open.values()):
            self._close_request(each)
            if not each.end.done():
                each.end.set_exception(error)
                each.end.exception()  # it may be that nobody waits for it any more
            each.news.set()

    # ------------------------------------------------------------------ one request, in

    def submit(
        self,
        prepared: Prepared,
        prompt_token_ids: list[int],
        *,
        timestamps: bool | None = None,
        sample: int = 0,
        stream: bool = False,
        priority: int = 0,
        timeout: float | None = None,
    ) -> OpenRequest:
        """Makes one `Request` and sends it on its way. Raises EngineDeadError."""
        if self._dead is not None:
            raise self._dead
        params = self.inputs.complete(prepared.params)
        media, prompt_len = prepared.media, len(prompt_token_ids)
        if timestamps is None:
            timestamps = self.inputs.wants_timestamps(prompt_token_ids)
        place = self.router.route(media.key, media.num_tokens)
        seed = secrets.randbits(63) if params.seed is None else params.seed + sample
        request = Request(
            id=next(self._ids),
            prompt_token_ids=np.array(prompt_token_ids, np.int64),
            media=Media(media.key, media.kind, media.num_tokens, self._use(media.key, media.payload)),  # type: ignore[arg-type]
            params=params,
            rules=self.inputs.rules(prompt_len, params, timestamps),
            max_tokens=self.inputs.max_tokens(prompt_len, params),
            seed=seed % 2**63,
            streams=stream or bool(params.stop),
            priority=priority,
            encoder=place[0],
        )
        if timeout is not None:
            request.deadline = request.metrics.arrived_at + timeout
        opened = OpenRequest(request, place, asyncio.get_running_loop().create_future())
        if request.streams:
            opened.text = self.inputs.text_stream(params)
        self._open[request.id] = opened
        self._outbox[place[1]].append(request)
        self._flush_soon()
        return opened

    def stored(self, media: EncoderInput) -> EncoderInput:
        """`media` with a large payload moved to the object store. For a thread: that takes milliseconds, in which the loop could take
        a thousand tokens."""
        if self._dead is not None or media.payload.nbytes < self._put_bytes:
            return media
        known = self._payloads.get(media.key)
        return replace(media, payload=self._store.put(media.payload) if known is None else known.stored)

    def _use(self, key: str, payload: Any) -> Any:
        """Counts one more user; equal content is kept once, whoever stored it first."""
        if not isinstance(payload, Stored):
            return payload
        kept = self._payloads.setdefault(key, _Payload(payload))
        kept.users += 1
        return kept.stored

    def _flush_soon(self) -> None:
        """All requests of one turn of the event loop go to a decoder in one message."""
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        for decoder, requests in enumerate(self._outbox):
            if requests and self.workers is not None:
                stored = [each for each in requests if isinstance(each.media.payload, Stored)]
                direct = [each for each in requests if not isinstance(each.media.payload, Stored)]
                if stored:  # only Ray knows how to pass a reference on
                    self.workers.decoders[decoder].submit.remote(stored)
                if direct:
                    self._links[decoder].send("submit", direct)
                self._outbox[decoder] = []

    def _tell(self, opened: OpenRequest, command: Literal["cancel", "stop"]) -> None:
        """The way that the request went, so that it comes behind it."""
        assert self.workers is not None
        decoder, request = opened.place[1], opened.request
        if isinstance(request.media.payload, Stored):
            getattr(self.workers.decoders[decoder], command).remote(request.id)
        else:
            self._links[decoder].send(command, request.id)

    def cancel(self, opened: OpenRequest) -> None:
        """Asks for the end of a request; its result is RequestCancelled unless it ended before."""
        if opened.request.id in self._open and self.workers is not None:
            self._flush()  # a request must be there before it can be cancelled
            self._tell(opened, "cancel")

    # ------------------------------------------------------------------ one request, out

    async def _receive(self) -> None:
        while True:
            self._take(await self._receiver.receive())

    def _take(self, output: StepOutput) -> None:
        for request_id, token in zip(output.delta_ids, output.delta_tokens, strict=True):
            if (opened := self._open.get(request_id)) is not None:
                self._take_token(opened, token)
        for end in output.finished:
            if (opened := self._open.get(end.id)) is not None:
                self._close_request(opened)
                if not opened.end.done():
                    opened.end.set_result(end)
                opened.news.set()

    def _take_token(self, opened: OpenRequest, token: int) -> None:
        assert opened.text is not None
        if opened.text.stopped or token in opened.request.rules.stop_ids:
            return
        opened.text.add([token])
        opened.news.set()
        if opened.text.stopped and self.workers is not None:
            self._tell(opened, "stop")

    def _close_request(self, opened: OpenRequest) -> None:
        request = opened.request
        del self._open[request.id]
        self.router.done(opened.place, request.media.num_tokens)
        payload = self._payloads.get(request.media.key)
        if payload is not None:
            payload.users -= 1
            if not payload.users:
                del self._payloads[request.media.key]

    async def result(self, opened: OpenRequest) -> CompletionOutput:
        """The end of one request. Raises the RequestError it ended with; cancels it when the caller is cancelled."""
        return self._completion(opened, await self._end(opened), 0)

    async def _end(self, opened: OpenRequest) -> Finished:
        try:
            end = await asyncio.shield(opened.end)
        except asyncio.CancelledError:
            self.cancel(opened)
            raise
        if end.state is not RequestState.DONE:
            raise ERRORS[end.state](end.error)
        return end

    def _completion(self, opened: OpenRequest, end: Finished, index: int) -> CompletionOutput:
        params, rules = opened.request.params, opened.request.rules
        token_ids, reason = end.token_ids, end.reason
        if opened.text is not None and opened.text.stopped:
            token_ids, text, reason = list(opened.text.token_ids), opened.text.text, "stop"
        else:
            shown = (
                token_ids[:-1] if reason == "stop" and token_ids[-1] in rules.stop_ids and params.skip_special_tokens else token_ids
            )
            text = self.inputs.decode(shown, params.skip_special_tokens)
        logprobs = None
        if params.logprobs is not None:
            logprobs = [
                {
                    id_: Logprob(value, rank, self.inputs.decode([id_], skip_special_tokens=False))
                    for id_, value, rank in reversed(list(zip(each.ids, each.logprobs, each.ranks, strict=True)))
                }
                for each in end.logprobs[: len(token_ids)]
            ]
        return CompletionOutput(index, text, token_ids, reason, logprobs)

    # ------------------------------------------------------------------ what callers use

    async def generate(
        self, prompt: Prompt, params: SamplingParams | None = None, *, priority: int = 0, timeout: float | None = None
    ) -> RequestOutput:
        """One prompt to its end. Raises InputError or RequestError. `timeout`: seconds until it expires."""
        params = params or SamplingParams()
        prepared, prompt_ids = await self._prepare(prompt, params)
        opened = [
            self.submit(prepared, prompt_ids, sample=sample, priority=priority, timeout=timeout) for sample in range(params.n)
        ]
        try:
            ends = await asyncio.gather(*(self._end(each) for each in opened))
        except BaseException:
            for each in opened:
                self.cancel(each)
            raise
        completions = [self._completion(each, end, index) for index, (each, end) in enumerate(zip(opened, ends, strict=True))]
        return RequestOutput(str(opened[0].request.id), prompt_ids, completions, ends[0].metrics)

    async def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, priority: int = 0, timeout: float | None = None
    ) -> AsyncIterator[StreamDelta]:
        """New text as it comes; the last delta has the finish reason. Leaving the loop early cancels the request."""
        params = params or SamplingParams()
        if params.n != 1:
            raise SamplingError(f"stream() gives one sample, not n={params.n}: use generate()")
        prepared, prompt_ids = await self._prepare(prompt, params)
        opened = self.submit(prepared, prompt_ids, stream=True, priority=priority, timeout=timeout)
        assert opened.text is not None
        sent = 0
        try:
            while not opened.end.done():
                await opened.news.wait()
                opened.news.clear()
                if not opened.end.done():
                    tokens = opened.text.token_ids[sent:]
                    sent += len(tokens)
                    yield StreamDelta(opened.text.take(), tokens)
            end = await self._end(opened)
        finally:
            self.cancel(opened)
        reason = "stop" if opened.text.stopped else end.reason
        yield StreamDelta(opened.text.take(final=True), opened.text.token_ids[sent:], reason)

    async def _prepare(self, prompt: Prompt, params: SamplingParams) -> tuple[Prepared, list[int]]:
        """Reads, checks, tokenises and stores in a thread; finds the language where a Whisper prompt leaves it open."""
        if self._dead is not None:
            raise self._dead
        prepared: Prepared = await self.run_in_thread(self._read, prompt, params)
        if prepared.prompt_token_ids is not None:
            return prepared, prepared.prompt_token_ids
        return prepared, await Transcriber(self).default_prompt(prepared.media)

    def _read(self, prompt: Prompt, params: SamplingParams) -> Prepared:
        prepared = self.inputs.prepare(prompt, params)
        return replace(prepared, media=self.stored(prepared.media))

    async def transcribe(self, audio: AudioInput, **options: Any) -> Transcription:
        """A recording of any length. Options: language, task, timestamps, params, timeout (see `Transcriber.transcribe`)."""
        if self._dead is not None:
            raise self._dead
        return await Transcriber(self).transcribe(audio, **options)

    async def stats(self) -> dict[str, int]:
        """Sums of the decoder workers' counters: encodes, cross_cache_hits, preemptions, steps, tokens, kv_pages, ..."""
        if self._dead is not None or self.workers is None:
            raise self._dead or EngineDeadError("the engine is closed")
        total: dict[str, int] = {}
        for counters in await asyncio.gather(*(worker.stats.remote() for worker in self.workers.decoders)):
            for name, value in counters.items():
                total[name] = total.get(name, 0) + value
        return total

    async def run_in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
