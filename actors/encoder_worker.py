"""The encoder worker: a loop over `EncoderRunner` that batches jobs and sends hidden states."""

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, assert_never

import numpy as np
import torch

from antiphon.actors.address import Address
from antiphon.actors.channel import PeerGone
from antiphon.actors.departures import Departures
from antiphon.actors.encoder_answers import EncoderAnswers
from antiphon.actors.encoder_batch import EncoderBatch, LaunchedBatch
from antiphon.actors.encoder_counters import EncoderCounters
from antiphon.actors.encoder_jobs import EncoderJobs
from antiphon.actors.links import Links
from antiphon.actors.messages import (
    Attach,
    Detach,
    Encode,
    EncodeJob,
    EncoderMessage,
    Input,
    InputGone,
    Inputs,
    Members,
    NeedInput,
    Withdraw,
    Withdrawn,
)
from antiphon.actors.news import News
from antiphon.actors.outlets import Outlets
from antiphon.actors.rank_channel import EncoderWire, RankSenders
from antiphon.actors.worker import POLL_SECONDS, Worker
from antiphon.config.errors import describe
from antiphon.config.options import EngineConfig
from antiphon.decoder.room import tokens_ahead
from antiphon.encoder.graphs import NoGraph
from antiphon.encoder.rank_commands import EncodeBatch
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.device import recorded_event
from antiphon.runtime.ranks import RankError, Ranks
from antiphon.scheduler.limits import encoder_capacity
from antiphon.scheduler.request import Incarnation
from antiphon.scheduler.sketch import sketch

logger = logging.getLogger(__name__)

BATCH_SECONDS = 30.0  # a batch that takes longer on a GPU counts as a device that hangs


class EncoderWorker(Worker[EncoderMessage | EncoderBatch]):
    """Queues a batch on the GPU while the previous one runs.

    Decoders in this process get hidden states when their computation is queued, other decoders when
    it is done.
    """

    def __init__(
        self,
        incarnation: Incarnation,
        model: ModelConfig,
        config: EngineConfig,
        ranks: Ranks | None = None,
    ) -> None:
        """Loads the encoder half. Raises what `EncoderRunner` raises. `ranks`: of a replica of
        several, which this one leads."""
        super().__init__()
        self.incarnation = incarnation
        self._followers: RankSenders | None = None
        self.runner = EncoderRunner(model, config, ranks, self._command)
        self._jobs = EncoderJobs(self.runner.batch_tokens)
        self._counters = EncoderCounters()
        self._departures = Departures(self._jobs.end)
        ahead = None if model.decoder_half is None else tokens_ahead(model, config.scheduler)
        self._capacity = encoder_capacity(self.runner.batch_tokens, ahead)
        self._in_flight: deque[LaunchedBatch] = deque()
        self.news = News()
        self._set_links(Links())
        self._max_in_flight = self.runner.ranks.parallel.pipeline + 1  # one a stage, one queued

    def load_report(self) -> dict[str, float]:
        """As `WorkerActor.load_report`, in tokens."""
        tokens, senders = self._open_tokens, self.senders
        self.news.told(senders)
        return {
            "open": tokens,
            "capacity": self._capacity,
            "tokens": tokens,
            "senders": len(senders),
            "trial": self._jobs.ready.trials.mark,
        }

    @property
    def senders(self) -> set[str]:
        """Names of decoders and frontends whose work it has. From any thread."""
        return self._jobs.senders

    def stats(self) -> dict[str, int]:
        """Counters since the start, and the tokens that are open. From any thread."""
        return {**self._counters.values, "encoder_open_tokens": self._open_tokens}

    @property
    def _open_tokens(self) -> int:
        batches = [one.batch for one in list(self._in_flight)]
        encoding = sum(sum(batch.encoded.lengths) for batch in batches)
        return self._jobs.num_tokens + encoding + self._departures.num_tokens

    def held(self) -> bytes:
        """As `WorkerActor.held`: of the inputs that wait here."""
        return sketch(self._jobs.keys)

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

    def connect(self, links: Links, followers: Sequence[Address] = ()) -> None:
        """Starts the loop. `links`: decoders by the names that jobs carry, and frontends.
        `followers`: where the other ranks of the replica receive."""
        assert len(followers) == self.runner.ranks.parallel.num_ranks - 1
        self._set_links(links)
        if followers:
            epoch = self.incarnation.epoch
            self._followers = RankSenders(followers, links.node, epoch, EncoderWire())
        self.start()

    @property
    def frontends(self) -> list[str]:
        """Those that have attached, by name. From any thread."""
        return list(self._links.frontends)

    def _set_links(self, links: Links) -> None:
        self._links, self._answers = links, EncoderAnswers(self.incarnation, links)
        self._outlets = Outlets(self.incarnation, self.device, links, self._answers.send, self.send)

    def _command(self, command: EncodeBatch) -> None:
        assert self._followers is not None
        self._followers(command)

    # ------------------------------------------------------------------ loop

    def loop(self) -> None:
        try:
            super().loop()
        finally:
            if self._followers is not None:
                self._followers.close()
            self._outlets.close()

    def handle(self, message: EncoderMessage | EncoderBatch) -> None:
        match message:
            case EncoderBatch():
                self._queue_completed(message)
            case Encode():
                jobs = self._outlets.admit(message)
                self._departures.check()  # a new life of the decoder has ended writes to its last
                self._jobs.add(jobs, message.again)
                self.news.note_senders(job.decoder for job in message.jobs)
            case Withdraw():
                self._withdraw(message)
            case Input():
                self._jobs.receive(message)
            case Inputs():
                for input_ in message.unpacked():
                    self._jobs.receive(input_)
            case InputGone():
                self._answers.fail_gone(self._jobs.gone(message))
            case Detach(frontend):
                self._answers.fail_gone(self._jobs.detach(frontend))
                self._links.handle(message)
            case Members(members):
                self._links.handle(message)
                self._outlets.unmap_gone(members)
            case Attach():
                self._links.handle(message)
            case _:
                assert_never(message)

    def _withdraw(self, message: Withdraw) -> None:
        if keys := self._jobs.withdraw(message.decoder, message.keys):
            tickets = dict(zip(message.keys, message.tickets, strict=False))
            landing = self._outlets.may_land(message.arena)
            of_keys = tuple(0 if key in landing else tickets.get(key, 0) for key in keys)
            withdrawn = Withdrawn(keys, self.incarnation, of_keys, message.arena)
            self._answers.send(message.decoder, withdrawn)

    def refuse(self, message: EncoderMessage | EncoderBatch, error: Exception) -> None:
        if isinstance(message, Encode | EncoderBatch):
            for job in message.jobs:
                self._answers.fail(job, f"the encoder could not take its job: {describe(error)}")
        if isinstance(message, EncoderBatch):  # which has ended for the decoder here
            self._jobs.end([job for job in message.jobs if job.decoder not in self._links.local])

    def run_once(self) -> None:
        self._answers.send_kept()
        self._departures.check()
        self._outlets.check()
        for frontend, keys in self._jobs.to_ask().items():
            self._links.send(frontend, NeedInput(self.incarnation.name, tuple(keys)))
        if self._has_room and self._jobs:
            jobs, inputs = self._jobs.next_batch()
            self.news.note_trial(self._jobs.ready.trials.mark)
            if jobs:
                self._launch(jobs, inputs)
        if self._in_flight and self._wait(self._in_flight[0]):
            self._finish(self._in_flight.popleft())

    @property
    def device(self) -> torch.device:
        return self.runner.target.device

    @property
    def poll_timeout(self) -> float:
        return 0.0 if self._jobs or self._in_flight else self._departures.poll_timeout

    @property
    def _has_room(self) -> bool:
        """True if another batch can be queued on the device."""
        return len(self._in_flight) < self._max_in_flight

    def _wait(self, launched: LaunchedBatch) -> bool:
        """True once the batch is done; False as soon as another batch could be queued behind it."""
        began = time.monotonic()
        while launched.done is not None and not launched.done.query():
            if self._has_room and (self._jobs or not self.inbox.empty()):
                return False
            time.sleep(POLL_SECONDS)
            self._departures.check()
            if (now := time.monotonic()) - began < BATCH_SECONDS:
                self.turned_at = now  # a long batch is no loop that hangs
            self.runner.ranks.limit.check(began, "an encoder batch")
        return True

    # ------------------------------------------------------------------ one batch

    def _launch(self, jobs: list[EncodeJob], inputs: list[np.ndarray]) -> None:
        """Queues one forward. If it raises, runs the jobs one by one: a bad input fails alone."""
        began = time.monotonic()
        try:
            encoded = self.runner.encode(inputs)
            batch = self._pooled(EncoderBatch(jobs, encoded, recorded_event(self.device)))
        except (RankError, PeerGone):  # other ranks have gone on, or are gone
            raise
        except Exception as error:  # whatever the model or the device raised
            return self._run_one_by_one(jobs, inputs, error)
        self._queue(batch, began)

    def _pooled(self, batch: EncoderBatch) -> EncoderBatch:
        """With embeddings, if any job wants one and all of the batch is here."""
        if batch.encoded.shares or not any(job.pooled for job in batch.jobs):
            return batch
        return replace(batch, pooled=self.runner.pool(batch.encoded))

    def _queue(self, batch: EncoderBatch, began: float | None) -> None:
        transports = self._outlets.queue(batch)
        self._in_flight.append(LaunchedBatch(batch, began, transports, recorded_event(self.device)))

    def _queue_completed(self, batch: EncoderBatch) -> None:
        """What others than the decoder want of a batch that ranks share; from its stream."""
        if batch.ready is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(batch.ready)
            batch.encoded.hidden.record_stream(stream)
        self._queue(self._pooled(batch), None)

    def _run_one_by_one(
        self, jobs: list[EncodeJob], inputs: list[np.ndarray], error: Exception
    ) -> None:
        logger.exception("an encoder batch of %d failed", len(jobs))
        self._probe()
        if len(jobs) == 1:
            self._jobs.end(jobs)
            return self._answers.fail(jobs[0], f"the encoder failed: {describe(error)}")
        for job, array in zip(jobs, inputs, strict=True):
            self._launch([job], [array])

    def _finish(self, launched: LaunchedBatch) -> None:
        """Waits for a batch, and sends what could not be sent before. Raises the device's error,
        which ends the worker."""
        if launched.done is not None:
            launched.done.synchronize()
        batch, peers = launched.batch, self._links.local
        lengths = batch.encoded.lengths
        if launched.began is not None:
            self._counters.add_batch(len(lengths), sum(lengths), launched.began, time.monotonic())
        of_share = [job for job in batch.jobs if job.decoder in peers]  # others are answered later
        jobs = of_share if batch.encoded.shares else batch.jobs
        self._departures.add(jobs, launched.transports)
