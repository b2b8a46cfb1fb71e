"""Workers of an engine of plain objects: see `unreliable_engine`."""

import copy
from typing import Any

import numpy as np
from played_model import token_at

from antiphon.actors.encoder_jobs import EncoderJobs
from antiphon.actors.messages import (
    Cancel,
    Encode,
    EncodeFailed,
    EncodeJob,
    Input,
    InputGone,
    Inputs,
    Members,
    NeedInput,
    NotOpen,
    Output,
    StillOpen,
    Stop,
    Submit,
    Withdraw,
    Withdrawn,
)
from antiphon.kv.pages import PagePool
from antiphon.scheduler.encode_work import EncodeCommand
from antiphon.scheduler.limits import Limits
from antiphon.scheduler.plan import StepPlan, StepResult
from antiphon.scheduler.request import Incarnation, RequestId
from antiphon.scheduler.scheduler import Scheduler

PAGES = 24


class Node:
    """One life of a worker."""

    def __init__(self, cluster: Any, incarnation: Incarnation) -> None:
        self.cluster, self.incarnation = cluster, incarnation

    def send(self, receiver: str, message: Any) -> None:
        self.cluster.send(self.incarnation, receiver, message)

    def load(self) -> dict[str, float]:
        """What its heartbeats say."""
        return {}


class EncoderNode(Node):
    def __init__(self, cluster: Any, incarnation: Incarnation) -> None:
        super().__init__(cluster, incarnation)
        self.jobs = EncoderJobs(batch_tokens=16, clock=cluster.clock)
        self.in_flight: list[EncodeJob] = []

    def handle(self, message: Any) -> None:
        match message:
            case Encode(jobs, again):
                self.jobs.add(jobs, again)
            case Withdraw(decoder, keys):
                if withdrawn := self.jobs.withdraw(decoder, keys):
                    self.send(decoder, Withdrawn(withdrawn, self.incarnation))
            case Input():
                self.jobs.receive(message)
            case Inputs():
                for each in message.unpacked():
                    self.jobs.receive(each)
            case InputGone():
                for job in self.jobs.gone(message):
                    gone = EncodeFailed(job.key, "gone", True, self.incarnation)
                    self.send(job.decoder, gone)

    def step(self) -> None:
        """Answers one batch and begins the next one."""
        done, self.in_flight = self.in_flight, []
        for job in done:
            self.send(job.decoder, ("encoded", job.key, self.incarnation))
        self.jobs.end(done)
        for frontend, keys in self.jobs.to_ask().items():
            self.send(frontend, NeedInput(self.incarnation.name, tuple(keys)))
        self.in_flight, _ = self.jobs.next_batch()
        if self.cluster.poison.intersection(job.key for job in self.in_flight):
            self.cluster.kill(self.incarnation.name)


class DecoderNode(Node):
    def __init__(self, cluster: Any, incarnation: Incarnation) -> None:
        super().__init__(cluster, incarnation)
        limits = Limits(
            max_num_seqs=3, max_batched_tokens=64, max_len=40, max_cross_len=40,
            encode_ahead_tokens=40, max_waiting=1000, page_size=4, aging_seconds=10.0,
        )  # fmt: skip
        self.scheduler = Scheduler(limits, PagePool(PAGES), cluster.clock)
        self.hidden: set[str] = set()
        self.asked: list[tuple[str, list[int]]] = []

    def handle(self, message: Any) -> None:
        match message:
            case Submit(requests):
                for request in requests:
                    self.scheduler.add(copy.copy(request))
            case Cancel(request_id):
                self.scheduler.cancel(request_id)
            case Stop(request_id):
                self.scheduler.stop(request_id)
            case StillOpen(frontend, numbers):
                self.asked.append((frontend, numbers))
            case Members(members):
                encoders = {m.name: m.epoch for m in members if m.role == "encoder" and m.alive}
                self.scheduler.set_encoders(encoders)
            case ("encoded", key, _):
                if self.scheduler.encodes.expects(key):
                    self.hidden.add(key)
                self.scheduler.encoded(key)
            case EncodeFailed(key, error, True, sender):
                self.scheduler.input_gone(key, error, sender)
            case Withdrawn(keys, sender):
                self.scheduler.withdrawn(keys, sender)

    def load(self) -> dict[str, float]:
        return dict(self.scheduler.load())

    def step(self) -> None:
        """As a replica's."""
        scheduler = self.scheduler
        self.ask(scheduler.encodes.overdue(), again=True)
        self.ask(scheduler.next_encodes())
        plan = scheduler.step()
        self.hidden -= set(scheduler.encodes.pop_unwanted())
        for key, encoder in scheduler.encodes.pop_withdrawals():
            self.send(encoder, Withdraw(self.incarnation.name, (key,)))
        if plan is not None:
            assert self.hidden >= {write.key for write in plan.cross_writes}
            names = scheduler.batch.tokens[plan.slots, 0].tolist()
            if self.cluster.poisonous & set(names):
                return self.cluster.kill(self.incarnation.name)
            scheduler.postprocess(plan, self._result(plan, names))
        for output in scheduler.outputs.pop():
            output.sender = self.incarnation
            self.send(output.frontend, Output(output))
        asked, self.asked = self.asked, []
        for frontend, numbers in asked:
            lost = [n for n in numbers if RequestId(frontend, n) not in scheduler.requests]
            if lost:
                self.send(frontend, NotOpen(lost, self.incarnation))
        scheduler.pages.check()
        scheduler.batch.check()

    def ask(self, commands: list[EncodeCommand], again: bool = False) -> None:
        for media, encoder in commands:
            waiting = self.scheduler.encodes.waiting([media.key])
            holders = tuple({request.id.frontend: None for request in waiting})
            is_ahead = any(request.encoder == encoder for request in waiting)
            job = EncodeJob(
                media.key, media.num_tokens, self.incarnation.name, holders, sent_ahead=is_ahead
            )
            if encoder in self.cluster.nodes:
                self.send(encoder, Encode([job], again))
            else:
                self.scheduler.encoder_lost(encoder)

    def _result(self, plan: StepPlan, names: list[int]) -> StepResult:
        rows = zip(names, plan.kv_lens.tolist(), plan.samples.tolist(), strict=True)
        tokens = [token_at(name, length) if samples else -9 for name, length, samples in rows]
        return StepResult(np.array(tokens, np.int64))
