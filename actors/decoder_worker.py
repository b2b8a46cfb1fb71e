"""The decoder worker: a Ray actor's shell over `DecoderReplica`. Its loop runs by itself; Ray only brings commands."""

from functools import partial
from typing import Any

import numpy as np
import torch

from antiphon.actors.channel import OutputSender
from antiphon.actors.encoder_worker import EncodeJob
from antiphon.actors.worker import Worker, set_threads
from antiphon.config.model import ModelConfig
from antiphon.config.options import EngineConfig
from antiphon.config.sampling import TimestampRules
from antiphon.decoder.replica import DecoderReplica
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.request import Media, Request


class DecoderWorker(Worker):
    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index
        self._encoders: list[Any] = []

    def load(self, model: ModelConfig, config: EngineConfig, timestamps: TimestampRules | None) -> dict[str, Any]:
        """Loads the decoder half and makes its page pool. Raises what `DecoderRunner` raises."""
        set_threads(config.placement.num_threads)
        self.replica = DecoderReplica(model, config, self._ask_encoders, timestamps)
        runner = self.replica.runner
        return {
            "attention": runner.causal.name,
            "device": str(runner.device),
            "dtype": str(runner.target.dtype),
            "kv_pages": runner.pool.num_pages,
        }

    def connect(self, encoders: list[Any], address: str, token: bytes) -> None:
        self._encoders = encoders
        self._sender = OutputSender(address, token)
        self.start()

    # ------------------------------------------------------------------ commands

    def submit(self, requests: list[Request]) -> None:
        for request in requests:
            self.inbox.put(partial(self.replica.scheduler.add, request))

    def cancel(self, request_id: int) -> None:
        self.inbox.put(lambda: self.replica.scheduler.cancel(request_id))

    def stop(self, request_id: int) -> None:
        self.inbox.put(lambda: self.replica.scheduler.stop(request_id))

    def deliver(self, keys: tuple[str, ...], lengths: tuple[int, ...], packed: np.ndarray, dtype: torch.dtype) -> None:
        self.inbox.put(lambda: self.replica.deliver(HiddenStates(keys, lengths, packed, dtype)))

    def encode_failed(self, key: str, error: str) -> None:
        self.inbox.put(lambda: self.replica.scheduler.encode_failed(key, error))

    def stats(self) -> dict[str, int]:
        """Counters since the start, and what is going on now."""
        scheduler = self.replica.scheduler
        now = {
            "running": len(scheduler.batch),
            "open": len(scheduler.requests),
            "kv_pages": scheduler.pages.num_pages,
            "kv_pages_available": scheduler.pages.num_available,
        }
        return {**scheduler.counters, **now}

    # ------------------------------------------------------------------ loop

    @property
    def idle(self) -> bool:
        return self.replica.idle

    def turn(self) -> None:
        if output := self.replica.step():
            self._sender.send(output)

    def _ask_encoders(self, jobs: list[tuple[Media, int]]) -> None:
        for encoder in {index for _, index in jobs}:
            mine = [EncodeJob(media.key, media.num_tokens, media.payload, self.index) for media, index in jobs if index == encoder]
            self._encoders[encoder].encode.remote(mine)
