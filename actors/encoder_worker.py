"""The encoder worker: a loop over `EncoderRunner` that batches jobs and sends hidden states."""

import logging
import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import torch

from antiphon.actors.messages import (
    DecoderPeer,
    Encode,
    EncodeFailed,
    EncodeJob,
    EncoderMessage,
    Withdraw,
    Withdrawn,
)
from antiphon.actors.payloads import fetch
from antiphon.actors.worker import IDLE_SECONDS, POLL_SECONDS, Worker
from antiphon.config.options import EngineConfig
from antiphon.encoder.graphs import NoGraph
from antiphon.encoder.runner import Encoded, EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.handoff import HiddenStates
from antiphon.runtime.device import probe

logger = logging.getLogger(__name__)

MAX_IN_FLIGHT = 2  # batches on the device at once: one runs while the next is queued


class JobQueue:
    """Jobs that have not begun, the oldest first."""

    def __init__(self, batch_tokens: int) -> None:
        """`batch_tokens`: at most so many encoder tokens make one batch."""
        self._batch_tokens = batch_tokens
        self._jobs: deque[EncodeJob] = deque()

    def extend(self, jobs: list[EncodeJob]) -> None:
        self._jobs.extend(jobs)

    def next_batch(self) -> list[EncodeJob]:
        """Removes the oldest jobs that fit one forward: at least one, unless the queue is empty."""
        jobs: list[EncodeJob] = []
        tokens = 0
        while self._jobs and (not jobs or tokens + self._jobs[0].num_tokens <= self._batch_tokens):
            jobs.append(self._jobs.popleft())
            tokens += jobs[-1].num_tokens
        return jobs

    def withdraw(self, decoder: str, keys: Collection[str]) -> tuple[str, ...]:
        """Removes a decoder's jobs from the queue. Returns the keys that were still in it."""
        withdrawn = {job.key for job in self._jobs if job.decoder == decoder}.intersection(keys)
        self._jobs = deque(
            job for job in self._jobs if job.decoder != decoder or job.key not in withdrawn
        )
        return tuple(withdrawn)

    def __len__(self) -> int:
        return len(self._jobs)


@dataclass(frozen=True)
class _Launched:
    """A batch on the device. `done`: recorded behind its forward; None on a CPU."""

    jobs: list[EncodeJob]
    encoded: Encoded
    done: torch.cuda.Event | None


class EncoderWorker(Worker[EncoderMessage]):
    """Queues a batch on the GPU while the previous one runs.

    Decoders in this process get hidden states when their computation is queued, other decoders when
    it is done.
    """

    def __init__(self, model: ModelConfig, config: EngineConfig) -> None:
        """Loads the encoder half. Raises what `EncoderRunner` raises."""
        super().__init__()
        self._jobs = JobQueue(config.encoder.max_encoder_batch_tokens)
        self._in_flight: deque[_Launched] = deque()
        self._decoders: Mapping[str, DecoderPeer] = {}
        self.runner = EncoderRunner(model, config)

    @property
    def info(self) -> dict[str, Any]:
        """What was chosen for this half."""
        target, graphs = self.runner.target, self.runner.graphs
        return {
            "attention": self.runner.attention.name,
            "device": str(target.device),
            "dtype": str(target.dtype),
            "graphs": None if isinstance(graphs, NoGraph) else graphs.report,
        }

    def connect(self, decoders: Mapping[str, DecoderPeer]) -> None:
        """Starts the loop. `decoders`: by the name that jobs carry."""
        self._decoders = decoders
        self.start()

    # ------------------------------------------------------------------ loop

    def handle(self, message: EncoderMessage) -> None:
        match message:
            case Encode(jobs):
                self._jobs.extend(jobs)
            case Withdraw(decoder, keys):
                if withdrawn := self._jobs.withdraw(decoder, set(keys)):
                    self._decoders[decoder].send(Withdrawn(withdrawn))
            case _:
                assert_never(message)

    def run_once(self) -> None:
        if len(self._in_flight) < MAX_IN_FLIGHT and (jobs := self._jobs.next_batch()):
            self._launch(*self._fetch_inputs(jobs))
        if self._in_flight and self._wait(self._in_flight[0]):
            self._finish(self._in_flight.popleft())

    @property
    def device(self) -> torch.device:
        return self.runner.target.device

    @property
    def poll_timeout(self) -> float:
        return 0.0 if self._jobs or self._in_flight else IDLE_SECONDS

    def _wait(self, launched: _Launched) -> bool:
        """True once the batch is done; False as soon as another batch could be queued behind it."""
        while launched.done is not None and not launched.done.query():
            if len(self._in_flight) < MAX_IN_FLIGHT and (self._jobs or not self.inbox.empty()):
                return False
            time.sleep(POLL_SECONDS)
        return True

    # ------------------------------------------------------------------ one batch

    def _fetch_inputs(self, jobs: list[EncodeJob]) -> tuple[list[EncodeJob], list[np.ndarray]]:
        """Returns the jobs whose inputs could be fetched, and the inputs; fails the others."""
        fetched, inputs = [], []
        for job, array in zip(jobs, fetch(job.payload for job in jobs), strict=True):
            if isinstance(array, np.ndarray):
                fetched.append(job)
                inputs.append(array)
            else:
                self._fail(job, f"its input was lost: {type(array).__name__}")
        return fetched, inputs

    def _launch(self, jobs: list[EncodeJob], inputs: list[np.ndarray]) -> None:
        """Queues one forward. If it raises, runs the jobs one by one: a bad input fails alone."""
        if not jobs:
            return
        try:
            encoded = self.runner.encode(inputs)
            done = self._recorded_event()
        except Exception as error:  # whatever the model or the device raised
            return self._run_one_by_one(jobs, inputs, error)
        self._in_flight.append(launched := _Launched(jobs, encoded, done))
        self._send_hidden(launched, in_this_process=True)

    def _run_one_by_one(
        self, jobs: list[EncodeJob], inputs: list[np.ndarray], error: Exception
    ) -> None:
        logger.exception("an encoder batch of %d failed", len(jobs))
        self._probe()
        if len(jobs) == 1:
            return self._fail(jobs[0], f"the encoder failed: {type(error).__name__}: {error}")
        for job, array in zip(jobs, inputs, strict=True):
            self._launch([job], [array])

    def _probe(self) -> None:
        """Raises if the device is unusable after an error."""
        probe(self.device)

    def _finish(self, launched: _Launched) -> None:
        """Waits for a batch and sends it to other processes. Raises the device's error, which ends
        the worker."""
        if launched.done is not None:
            launched.done.synchronize()
        self._send_hidden(launched, in_this_process=False)

    def _send_hidden(self, launched: _Launched, in_this_process: bool) -> None:
        """Sends the hidden states to the decoders in this process, or to the other ones."""
        for decoder in {job.decoder for job in launched.jobs}:
            peer = self._decoders[decoder]
            if peer.in_this_process == in_this_process:
                peer.send(self._hidden_for(decoder, launched))

    def _hidden_for(self, decoder: str, launched: _Launched) -> HiddenStates:
        """A batch's hidden states that one decoder wants: the batch itself if it wants all."""
        jobs, encoded, ready = launched.jobs, launched.encoded, launched.done
        rows = [row for row, job in enumerate(jobs) if job.decoder == decoder]
        packed = encoded.hidden
        if len(rows) < len(jobs):
            hidden = packed.split(encoded.lengths)
            packed = torch.cat([hidden[row] for row in rows])
            ready = self._recorded_event()  # `done` was recorded before this copy
        keys = tuple(jobs[row].key for row in rows)
        lengths = tuple(encoded.lengths[row] for row in rows)
        return HiddenStates(keys, lengths, packed, ready)

    def _recorded_event(self) -> torch.cuda.Event | None:
        """An event behind all that is queued on this stream; None on a CPU."""
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event()
        event.record()
        return event

    def _fail(self, job: EncodeJob, error: str) -> None:
        self._decoders[job.decoder].send(EncodeFailed(job.key, error))
