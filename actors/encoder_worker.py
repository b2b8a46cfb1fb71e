"""The encoder worker: a loop over `EncoderRunner`. Batches what is asked for, sends hidden states onwards."""

import logging
import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from antiphon.actors.payloads import fetch
from antiphon.actors.worker import IDLE_SECONDS, POLL_SECONDS, Worker
from antiphon.config.options import EngineConfig
from antiphon.encoder.runner import Encoded, EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.handoff import HiddenStates
from antiphon.runtime.device import probe

logger = logging.getLogger(__name__)

UNDER_WAY = 2  # batches on the device at once: one runs while the next is queued


@dataclass(frozen=True)
class EncodeJob:
    """`payload`: an array, or what stands for it in Ray's object store. `decoder`: who wants it."""

    key: str
    num_tokens: int
    payload: Any
    decoder: int


class DecoderPeer(Protocol):
    """A decoder worker as an encoder sees it: in this process, or behind an actor."""

    in_this_process: bool  # takes states that are still computed

    def receive_hidden(self, states: HiddenStates) -> None: ...

    def encode_failed(self, key: str, error: str) -> None: ...

    def withdrawn(self, keys: tuple[str, ...]) -> None: ...


class JobQueue:
    """Jobs that have not begun, the oldest first."""

    def __init__(self, batch_tokens: int) -> None:
        self._batch_tokens = batch_tokens
        self._jobs: deque[EncodeJob] = deque()

    def extend(self, jobs: list[EncodeJob]) -> None:
        self._jobs.extend(jobs)

    def next_batch(self) -> list[EncodeJob]:
        """The oldest jobs that fit one forward; at least one where there are any."""
        jobs: list[EncodeJob] = []
        tokens = 0
        while self._jobs and (not jobs or tokens + self._jobs[0].num_tokens <= self._batch_tokens):
            jobs.append(self._jobs.popleft())
            tokens += jobs[-1].num_tokens
        return jobs

    def withdraw(self, decoder: int, keys: Collection[str]) -> tuple[str, ...]:
        """Takes a decoder's jobs out of the line. Returns the keys that were still in it."""
        unwanted = {job.key for job in self._jobs if job.decoder == decoder}.intersection(keys)
        self._jobs = deque(
            job for job in self._jobs if job.decoder != decoder or job.key not in unwanted
        )
        return tuple(unwanted)

    def __len__(self) -> int:
        return len(self._jobs)


@dataclass(frozen=True)
class _Launched:
    jobs: list[EncodeJob]
    encoded: Encoded
    done: torch.cuda.Event | None  # None where the device is the host


class EncoderWorker(Worker):
    """On a GPU a batch is queued while the one before it runs; hidden states go to other processes once they are computed."""

    def __init__(self, model: ModelConfig, config: EngineConfig) -> None:
        """Loads the encoder half. Raises what `EncoderRunner` raises."""
        super().__init__()
        self._jobs = JobQueue(config.encoder.max_encoder_batch_tokens)
        self._under_way: deque[_Launched] = deque()
        self._decoders: Mapping[int, DecoderPeer] = {}
        self.runner = EncoderRunner(model, config)

    @property
    def facts(self) -> dict[str, Any]:
        target, graphs = self.runner.target, self.runner.window_graphs or self.runner.text_graphs
        return {
            "attention": self.runner.attention.name,
            "device": str(target.device),
            "dtype": str(target.dtype),
            "graphs": None if graphs is None else graphs.report,
        }

    def connect(self, decoders: Mapping[int, DecoderPeer]) -> None:
        self._decoders = decoders
        self.start()

    def encode(self, jobs: list[EncodeJob]) -> None:
        self.inbox.put(lambda: self._jobs.extend(jobs))

    def withdraw(self, decoder: int, keys: tuple[str, ...]) -> None:
        """Answers with the keys that had not begun; the others' hidden states come as if nobody had asked."""
        self.inbox.put(lambda: self._withdraw(decoder, keys))

    def _withdraw(self, decoder: int, keys: tuple[str, ...]) -> None:
        if withdrawn := self._jobs.withdraw(decoder, set(keys)):
            self._decoders[decoder].withdrawn(withdrawn)

    @property
    def device(self) -> torch.device:
        return self.runner.target.device

    @property
    def patience(self) -> float:
        return 0.0 if self._jobs or self._under_way else IDLE_SECONDS

    def turn(self) -> None:
        if len(self._under_way) < UNDER_WAY and (jobs := self._jobs.next_batch()):
            self._launch(*self._fetch(jobs))
        if self._under_way and self._wait(self._under_way[0]):
            self._deliver(self._under_way.popleft())

    def _wait(self, launched: _Launched) -> bool:
        """True once the batch is done; False as soon as there is something to queue behind it."""
        while launched.done is not None and not launched.done.query():
            if len(self._under_way) < UNDER_WAY and (self._jobs or not self.inbox.empty()):
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _fetch(self, jobs: list[EncodeJob]) -> tuple[list[EncodeJob], list[np.ndarray]]:
        """The jobs whose inputs are there, and these; the others fail."""
        there, inputs = [], []
        for job, found in zip(jobs, fetch(job.payload for job in jobs), strict=True):
            if isinstance(found, np.ndarray):
                there.append(job)
                inputs.append(found)
            else:
                self._fail(job, f"its input was lost: {type(found).__name__}")
        return there, inputs

    def _launch(self, jobs: list[EncodeJob], inputs: list[np.ndarray]) -> None:
        """Queues one forward. A batch that fails is run again one by one, so that a bad input fails alone."""
        if not jobs:
            return
        try:
            encoded = self.runner.encode(inputs)
            done = None
            if self.device.type == "cuda":
                done = torch.cuda.Event()
                done.record()
        except Exception as error:  # whatever the model or the device raised
            return self._split(jobs, inputs, error)
        self._under_way.append(launched := _Launched(jobs, encoded, done))
        self._send(launched, in_this_process=True)

    def _split(self, jobs: list[EncodeJob], inputs: list[np.ndarray], error: Exception) -> None:
        logger.exception("an encoder batch of %d failed", len(jobs))
        self._probe()
        if len(jobs) == 1:
            return self._fail(jobs[0], f"the encoder failed: {type(error).__name__}: {error}")
        for job, array in zip(jobs, inputs, strict=True):
            self._launch([job], [array])

    def _probe(self) -> None:
        """Raises if the device can't go on after an error."""
        probe(self.device)

    def _deliver(self, launched: _Launched) -> None:
        """Waits for a batch and sends it to other processes. Raises what the device raised: it is of no more use then."""
        if launched.done is not None:
            launched.done.synchronize()
        self._send(launched, in_this_process=False)

    def _send(self, launched: _Launched, in_this_process: bool) -> None:
        """Hidden states to whoever asked for them, here or elsewhere."""
        jobs, encoded = launched.jobs, launched.encoded
        hidden = encoded.hidden.split(encoded.lengths)
        for decoder in {job.decoder for job in jobs}:
            if self._decoders[decoder].in_this_process != in_this_process:
                continue
            mine = [i for i, job in enumerate(jobs) if job.decoder == decoder]
            packed, ready = encoded.hidden, launched.done if in_this_process else None
            if len(mine) < len(jobs):
                packed = torch.cat([hidden[i] for i in mine])
                if ready is not None:  # `done` came before this copy
                    ready = torch.cuda.Event()
                    ready.record()
            states = HiddenStates(
                tuple(jobs[i].key for i in mine),
                tuple(encoded.lengths[i] for i in mine),
                packed,
                ready,
            )
            self._decoders[decoder].receive_hidden(states)

    def _fail(self, job: EncodeJob, error: str) -> None:
        self._decoders[job.decoder].encode_failed(job.key, error)
