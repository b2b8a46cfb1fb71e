"""The decoder worker: a loop over `DecoderReplica` that messages keep informed."""

from collections.abc import Callable, Mapping
from typing import Any, assert_never

import torch

from antiphon.actors.messages import (
    Cancel,
    DecoderMessage,
    Encode,
    EncodeFailed,
    EncodeJob,
    EncoderPeer,
    Stop,
    Submit,
    Withdraw,
    Withdrawn,
)
from antiphon.actors.worker import IDLE_SECONDS, POLL_SECONDS, Worker
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.decoder.replica import DecoderReplica
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.encodes import EncodeCommand, Withdrawal
from antiphon.scheduler.request import StepOutput

Send = Callable[[StepOutput], None]  # where outputs go; must not block


class DecoderWorker(Worker[DecoderMessage]):
    """Decoder replica number `index` of the engine, in a thread."""

    def __init__(
        self,
        index: int,
        model: ModelConfig,
        config: EngineConfig,
        timestamps: TimestampRules | None,
    ) -> None:
        """Loads the decoder half and allocates its pages. Raises what `DecoderRunner` raises."""
        super().__init__()
        self.index = index
        self._encoders: Mapping[int, EncoderPeer] = {}
        self.replica = DecoderReplica(model, config, self._encode, self._withdraw, timestamps)

    @property
    def info(self) -> dict[str, Any]:
        """What was chosen for this half."""
        runner = self.replica.runner
        return {
            "attention": runner.causal.name,
            "device": str(runner.device),
            "dtype": str(runner.target.dtype),
            "kv_pages": runner.pool.num_pages,
            "graphs": None if runner.graphs is None else runner.graphs.report,
        }

    def stats(self) -> dict[str, int]:
        """Counters since the start, and the present load. From any thread."""
        scheduler = self.replica.scheduler
        load = {
            "running": len(scheduler.batch),
            "open": len(scheduler.requests),
            "kv_pages": scheduler.pages.num_pages,
            "kv_pages_available": scheduler.pages.num_available,
        }
        return {**scheduler.counters, **self.replica.runner.eager_steps, **load}

    def connect(self, encoders: Mapping[int, EncoderPeer], send: Send) -> None:
        """Starts the loop. `encoders`: by the index in requests. `send` gets the outputs."""
        self._encoders, self._send = encoders, send
        self.start()

    # ------------------------------------------------------------------ loop

    def handle(self, message: DecoderMessage) -> None:
        scheduler = self.replica.scheduler
        match message:
            case Submit(requests):
                for request in requests:
                    scheduler.add(request)
            case Cancel(request_id):
                scheduler.cancel(request_id)
            case Stop(request_id):
                scheduler.stop(request_id)
            case HiddenStates():
                self.replica.receive_hidden(message)
            case EncodeFailed(key, error):
                scheduler.encode_failed(key, error)
            case Withdrawn(keys):
                scheduler.withdrawn(keys)
            case _:
                assert_never(message)

    def run_once(self) -> None:
        for output in self.replica.step():
            self._send(output)

    @property
    def device(self) -> torch.device:
        return self.replica.runner.device

    @property
    def poll_timeout(self) -> float:
        if self.replica.idle:
            return IDLE_SECONDS
        return POLL_SECONDS if self.replica.rests else 0.0

    # ------------------------------------------------------------------ to the encoders

    def _encode(self, work: list[EncodeCommand]) -> None:
        """Requests the hidden states of media from the encoders with these indices."""
        for encoder in {index for _, index in work}:
            jobs = [
                EncodeJob(media.key, media.num_tokens, media.payload, self.index)
                for media, index in work
                if index == encoder
            ]
            self._encoders[encoder].send(Encode(jobs))

    def _withdraw(self, withdrawals: list[Withdrawal]) -> None:
        """Withdraws keys from the encoders with these indices."""
        for encoder in {index for _, index in withdrawals}:
            keys = tuple(key for key, index in withdrawals if index == encoder)
            self._encoders[encoder].send(Withdraw(self.index, keys))
