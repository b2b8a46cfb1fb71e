"""The decoder worker: a loop over `DecoderReplica`. It runs by itself; calls only bring commands."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import torch

from antiphon.actors.encoder_worker import EncodeJob
from antiphon.actors.worker import IDLE_SECONDS, POLL_SECONDS, Worker
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.decoder.replica import DecoderReplica
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.request import Media, Request, StepOutput

Send = Callable[[StepOutput], None]  # where outputs go; must not block


class EncoderPeer(Protocol):
    """An encoder worker as a decoder sees it: in this process, or behind an actor."""

    def encode(self, jobs: list[EncodeJob]) -> None: ...

    def withdraw(self, decoder: int, keys: tuple[str, ...]) -> None: ...


class DecoderWorker(Worker):
    in_this_process = True  # as an encoder worker that holds it sees it

    def __init__(
        self,
        index: int,
        model: ModelConfig,
        config: EngineConfig,
        timestamps: TimestampRules | None,
    ) -> None:
        """Loads the decoder half and makes its page pool. Raises what `DecoderRunner` raises."""
        super().__init__()
        self.index = index
        self._encoders: Mapping[int, EncoderPeer] = {}
        self.replica = DecoderReplica(model, config, self._ask_encoders, self._withdraw, timestamps)

    @property
    def facts(self) -> dict[str, Any]:
        runner = self.replica.runner
        return {
            "attention": runner.causal.name,
            "device": str(runner.device),
            "dtype": str(runner.target.dtype),
            "kv_pages": runner.pool.num_pages,
            "graphs": None if runner.graphs is None else runner.graphs.report,
        }

    def connect(self, encoders: Mapping[int, EncoderPeer], send: Send) -> None:
        self._encoders, self._send = encoders, send
        self.start()

    # ------------------------------------------------------------------ commands

    def submit(self, requests: list[Request]) -> None:
        for request in requests:
            self.inbox.put(partial(self.replica.scheduler.add, request))

    def cancel(self, request_id: int) -> None:
        self.inbox.put(lambda: self.replica.scheduler.cancel(request_id))

    def stop(self, request_id: int) -> None:
        self.inbox.put(lambda: self.replica.scheduler.stop(request_id))

    def receive_hidden(self, states: HiddenStates) -> None:
        self.inbox.put(lambda: self.replica.receive_hidden(states))

    def encode_failed(self, key: str, error: str) -> None:
        self.inbox.put(lambda: self.replica.scheduler.encode_failed(key, error))

    def withdrawn(self, keys: tuple[str, ...]) -> None:
        self.inbox.put(lambda: self.replica.scheduler.withdrawn(keys))

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
    def device(self) -> torch.device:
        return self.replica.runner.device

    @property
    def patience(self) -> float:
        if self.replica.idle:
            return IDLE_SECONDS
        return POLL_SECONDS if self.replica.rests else 0.0

    def turn(self) -> None:
        if output := self.replica.step():
            self._send(output)

    def _ask_encoders(self, jobs: list[tuple[Media, int]]) -> None:
        for encoder in {index for _, index in jobs}:
            mine = [
                EncodeJob(media.key, media.num_tokens, media.payload, self.index)
                for media, index in jobs
                if index == encoder
            ]
            self._encoders[encoder].encode(mine)

    def _withdraw(self, withdrawals: list[tuple[str, int]]) -> None:
        for encoder in {index for _, index in withdrawals}:
            keys = tuple(key for key, index in withdrawals if index == encoder)
            self._encoders[encoder].withdraw(self.index, keys)
