"""Both workers in this process, without Ray, clients or tokenizers: the engine's own work.

Compared with the same load through Ray, it shows what Ray and the messages cost.
"""

import itertools
import queue
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from antiphon.actors.local import LocalWorkers
from antiphon.actors.messages import FrontendMessage, Input, Inputs, NeedInput, Output, Submit
from antiphon.benchmarks.acceptance import acceptance
from antiphon.benchmarks.machine import PeakMemory
from antiphon.benchmarks.report import Row
from antiphon.benchmarks.serving import Load, RandomInputs, closed_loop_row, offline_row, warm_ups
from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.errors import ConfigurationError, RequestFailed
from antiphon.config.options import resolve
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.draft import looks_up
from antiphon.families.image_halves import ImageHalf
from antiphon.runtime.garbage import frozen_heap
from antiphon.scheduler.request import Finished, Media, Request, RequestId, RequestState

NAME = "benchmark"  # of this frontend


class LocalEngine:
    """Two worker threads under one load; requests are made by hand."""

    def __init__(self, folder: str, options: dict[str, Any], load: Load) -> None:
        config = resolve(folder, options)
        self.model, self.load = ModelConfig.load(config.model), load
        self._workers = LocalWorkers(self.model, config, None)
        self.info = self._workers.info
        self._ended: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        self._ids = itertools.count()
        self.audio = self.model.audio
        self._looks_up = looks_up(self.model, config)
        if self.model.encoder is None:
            raise ConfigurationError(
                f"{self.model.architecture} has no encoder: measure it with `bench latency`"
            )
        if isinstance(self.model.encoder, ImageHalf):
            raise ConfigurationError(
                f"{self.model.architecture} reads images: measure it with `bench latency`, or "
                "without Ray with benchmarks/scripts/image_requests.py"
            )
        self._inputs = RandomInputs(load.input_size, self.model.encoder.vocab_size, self.audio)
        self._arrays: dict[str, np.ndarray] = {}  # inputs of open requests, by key
        self._workers.start(NAME, self._receive)

    def close(self) -> None:
        self._workers.close()

    @property
    def counters(self) -> dict[str, int]:
        return self._workers.counters()

    def run(self, sizes: list[tuple[float, int]], in_flight: int) -> list[float]:
        """Seconds of each request, with `in_flight` of them at a time. Raises RequestFailed."""
        left = iter([self._request(*size) for size in sizes])
        began: dict[int, float] = {}
        took: list[float] = []

        def submit(count: int) -> None:
            requests = list(itertools.islice(left, count))
            began.update({request.id.number: time.perf_counter() for request in requests})
            self._send_inputs([str(request.id.number) for request in requests])
            self._workers.send("decoder-0", Submit(requests))

        submit(in_flight)
        while len(took) < len(sizes):
            batch = [self._next_finished()]
            while not self._ended.empty():
                batch.append(self._ended.get())
            took += [time.perf_counter() - began.pop(finished.number) for finished in batch]
            for finished in batch:
                if finished.state is not RequestState.DONE:
                    raise RequestFailed(finished.error)
            submit(len(batch))
        return took

    def closed_loop(self, sizes: list[tuple[float, int]], callers: int) -> Row:
        """Of `callers`, each with one request in flight, all of which have the load's tokens."""
        before, began = self.counters, time.perf_counter()
        took = self.run(sizes, callers)
        elapsed = time.perf_counter() - began
        row = closed_loop_row(callers, took, elapsed, self.load.output_tokens)
        return {**row, **acceptance(before, self.counters)}

    def _request(self, size: float, output_tokens: int) -> Request:
        array, start = self._inputs.draw(size), self.model.token_id("decoder_start_token_id")
        assert start is not None
        number, audio = next(self._ids), self.audio is not None
        key = str(number)
        self._arrays[key] = array
        num_tokens = self.model.max_encoder_len if audio else len(array)
        media = Media(key, "audio" if audio else "text", num_tokens)
        prompt = start + np.arange(4 if audio else 1)
        params = SamplingParams(max_tokens=output_tokens, ignore_eos=True)
        return Request(
            RequestId(NAME, number), prompt, (media,), params, DecodingRules(), output_tokens,
            seed=0, encoder="encoder-0", lookup_ids=array if self._looks_up else None,
        )  # fmt: skip

    def _send_inputs(self, keys: Sequence[str]) -> None:
        """As frontends do: texts together."""
        arrays = {key: self._arrays[key] for key in keys}
        if not arrays:
            return
        if self.audio is None:
            return self._workers.send("encoder-0", Inputs.of(NAME, arrays))
        for key, array in arrays.items():
            self._workers.send("encoder-0", Input(NAME, key, array))

    def _receive(self, message: FrontendMessage) -> None:
        match message:
            case Output(output):
                for finished in output.finished:
                    del self._arrays[str(finished.number)]
                    self._ended.put(finished)
            case NeedInput(_, keys):
                self._send_inputs(keys)
            case _:
                raise AssertionError(message)

    def _next_finished(self) -> Finished:
        while True:
            try:
                return self._ended.get(timeout=1)
            except queue.Empty:
                if (failure := self._workers.failure()) is not None:
                    raise RuntimeError("a worker ended") from failure


def throughput(folder: str, options: dict[str, Any], load: Load) -> tuple[Row, dict[str, Any]]:
    """All requests at once, as `serving.run_throughput`: the row, and what the workers are."""
    began = time.perf_counter()
    engine = LocalEngine(folder, options, load)
    ready = time.perf_counter() - began
    try:
        _warm(engine, warm_ups(engine.info))
        sizes, before = load.sizes(engine.audio is not None), engine.counters
        with frozen_heap(), PeakMemory() as memory:
            began = time.perf_counter()
            engine.run(sizes, len(sizes))
            took = time.perf_counter() - began
        after = engine.counters
        return {
            **offline_row(load, sizes, took, memory),
            "steps": after["steps"] - before["steps"],
            "ready_s": ready,
            **acceptance(before, after),
        }, engine.info
    finally:
        engine.close()


def latency(
    folder: str, options: dict[str, Any], load: Load, concurrencies: list[int]
) -> tuple[list[Row], dict[str, Any]]:
    """A closed loop, as `serving.run_latency`: one row for each concurrency."""
    engine, rows = LocalEngine(folder, options, load), []
    try:
        with frozen_heap():
            for callers in concurrencies:
                _warm(engine, callers)
                sizes = load.sizes(engine.audio is not None)
                rows.append(engine.closed_loop(sizes, callers))
        return rows, engine.info
    finally:
        engine.close()


def _warm(engine: LocalEngine, count: int) -> None:
    engine.run([engine.load.warm_up] * count, count)
