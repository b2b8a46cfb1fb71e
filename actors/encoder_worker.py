"""The encoder worker: a Ray actor's shell over `EncoderRunner`. Batches what is asked for, sends hidden states onwards."""

import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from antiphon.actors.worker import Worker, set_threads
from antiphon.config.model import ModelConfig
from antiphon.config.options import EngineConfig
from antiphon.encoder.runner import EncoderRunner
from antiphon.kv.handoff import HiddenStates

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodeJob:
    """`payload`: an array, or a reference to one in Ray's object store. `decoder`: who wants it."""

    key: str
    num_tokens: int
    payload: Any
    decoder: int


class EncoderWorker(Worker):
    def __init__(self) -> None:
        super().__init__()
        self._jobs: deque[EncodeJob] = deque()
        self._decoders: list[Any] = []

    def load(self, model: ModelConfig, config: EngineConfig) -> dict[str, Any]:
        """Loads the encoder half. Raises what `EncoderRunner` raises."""
        set_threads(config.placement.num_threads)
        self._batch_tokens = config.encoder.max_encoder_batch_tokens
        self.runner = EncoderRunner(model, config)
        return {
            "attention": self.runner.attention.name,
            "device": str(self.runner.target.device),
            "dtype": str(self.runner.target.dtype),
        }

    def connect(self, decoders: list[Any]) -> None:
        self._decoders = decoders
        self.start()

    def encode(self, jobs: list[EncodeJob]) -> None:
        self.inbox.put(lambda: self._jobs.extend(jobs))

    @property
    def idle(self) -> bool:
        return not self._jobs

    def turn(self) -> None:
        if jobs := self._next_batch():
            inputs = [self._fetch(job) for job in jobs]
            self._run_batch(
                [job for job, found in zip(jobs, inputs, strict=True) if found is not None],
                [found for found in inputs if found is not None],
            )

    def _next_batch(self) -> list[EncodeJob]:
        """The oldest jobs that fit one forward; at least one."""
        jobs: list[EncodeJob] = []
        tokens = 0
        while self._jobs and (not jobs or tokens + self._jobs[0].num_tokens <= self._batch_tokens):
            jobs.append(self._jobs.popleft())
            tokens += jobs[-1].num_tokens
        return jobs

    def _fetch(self, job: EncodeJob) -> np.ndarray | None:
        if not isinstance(job.payload, ray.ObjectRef):
            array: np.ndarray = job.payload
            return array
        try:
            array = ray.get(job.payload)
        except ray.exceptions.RayError as error:
            self._fail(job, f"its input was lost: {type(error).__name__}")
            return None
        return array

    def _run_batch(self, jobs: list[EncodeJob], inputs: list[np.ndarray]) -> None:
        """One forward. A batch that fails is run again one by one, so that a bad input fails alone."""
        if not jobs:
            return
        try:
            encoded = self.runner.encode(inputs)
        except Exception as error:  # whatever the model or the device raised
            logger.exception("an encoder batch of %d failed", len(jobs))
            if len(jobs) == 1:
                return self._fail(jobs[0], f"the encoder failed: {type(error).__name__}: {error}")
            for job, array in zip(jobs, inputs, strict=True):
                self._run_batch([job], [array])
            return
        hidden = encoded.hidden.split(encoded.lengths)
        for decoder in {job.decoder for job in jobs}:
            mine = [i for i, job in enumerate(jobs) if job.decoder == decoder]
            packed = encoded.hidden if len(mine) == len(jobs) else torch.cat([hidden[i] for i in mine])
            states = HiddenStates.pack([jobs[i].key for i in mine], [encoded.lengths[i] for i in mine], packed)
            # A top-level argument travels through the object store; a reference to it is all that the call carries.
            self._decoders[decoder].deliver.remote(states.keys, states.lengths, states.packed, states.dtype)

    def _fail(self, job: EncodeJob, error: str) -> None:
        self._decoders[job.decoder].encode_failed.remote(job.key, error)
