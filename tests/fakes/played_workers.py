"""Workers of an engine of plain objects: see `unreliable_engine`."""

import copy
from typing import Any

import msgspec
import numpy as np
from played_model import is_drafted, token_at

from antiphon.actors.arena_places import ArenaPlaces
from antiphon.actors.encode_asks import EncodeAsks
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
    StatesWritten,
    StillOpen,
    Stop,
    Submit,
    Withdraw,
    Withdrawn,
)
from antiphon.kv.arena_rows import ArenaRows
from antiphon.kv.pages import PagePool
from antiphon.kv.transports.mapped import ArenaExport
from antiphon.scheduler.limits import Limits
from antiphon.scheduler.plan import StepPlan, StepResult
from antiphon.scheduler.request import Incarnation, RequestId
from antiphon.scheduler.scheduler import Scheduler

PAGES = 24
ROOM, TOKENS = 40, 8  # of an arena, and of each input


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
        self.told: dict[str, float] = {}

    def load(self) -> dict[str, float]:
        return self.told

    def handle(self, message: Any) -> None:
        match message:
            case Encode(jobs, again, _, epoch):
                if epoch != self.incarnation.epoch:
                    jobs = [msgspec.structs.replace(job, place=None) for job in jobs]
                self.jobs.add(jobs, again)
            case Withdraw(decoder, keys, tickets, arena):
                if withdrawn := self.jobs.withdraw(decoder, keys):
                    of_keys = dict(zip(keys, tickets, strict=True))
                    confirmed = tuple(of_keys[key] for key in withdrawn)
                    self.send(decoder, Withdrawn(withdrawn, self.incarnation, confirmed, arena))
            case Input():
                self.jobs.receive(message)
            case Inputs():
                for each in message.unpacked():
                    self.jobs.receive(each)
            case InputGone():
                for job in self.jobs.gone(message):
                    ticket, arena = 0, ""
                    if job.place is not None:
                        ticket, arena = job.place.ticket, job.place.arena
                    gone = EncodeFailed(job.key, "gone", True, self.incarnation, ticket, arena)
                    self.send(job.decoder, gone)

    def step(self) -> None:
        """Answers one batch and begins the next one."""
        done, self.in_flight = self.in_flight, []
        for job in done:
            self._answer(job)
        self.jobs.end(done)
        for frontend, keys in self.jobs.to_ask().items():
            self.send(frontend, NeedInput(self.incarnation.name, tuple(keys)))
        self.in_flight, _ = self.jobs.next_batch()
        self.told = {"senders": len(self.jobs.senders), "trial": self.jobs.ready.trials.mark}
        if self.cluster.poison.intersection(job.key for job in self.in_flight):
            self.cluster.kill(self.incarnation.name)

    def _answer(self, job: EncodeJob) -> None:
        """Writes the states as late as can be."""
        if (place := job.place) is None:
            return self.send(job.decoder, ("encoded", job.key, self.incarnation))
        self.cluster.arenas[place.arena].write(place.rows, job.key)
        written = StatesWritten(place.arena, (job.key,), (place.ticket,), self.incarnation)
        self.send(job.decoder, written)


class DecoderLinks:
    """Of a decoder node. `near`: whether encoders can write into its arena."""

    def __init__(self, node: "DecoderNode") -> None:
        self._node = node

    def is_apart(self, name: str) -> bool:
        return True

    def is_near(self, name: str) -> bool:
        return True

    def send(self, name: str, message: Any) -> bool:
        self._node.send(name, message)
        return True  # nobody knows whether it arrives


class DecoderNode(Node):
    def __init__(self, cluster: Any, incarnation: Incarnation) -> None:
        super().__init__(cluster, incarnation)
        limits = Limits(
            max_num_seqs=3, max_batched_tokens=64, max_len=40, max_cross_len=40,
            encode_ahead_tokens=ROOM, max_waiting=1000, page_size=4, aging_seconds=10.0,
            drafts=cluster.drafts,
        )  # fmt: skip
        self.scheduler = Scheduler(limits, PagePool(PAGES), cluster.clock)
        self.hidden: set[str] = set()
        export = ArenaExport(f"arena of {incarnation}", (), ROOM, 1, "float32")
        cluster.arenas[export.name] = self
        self.content = np.full(ROOM, "", object)  # the key whose states are in each row
        self.space = ArenaRows(ROOM)
        self.places = ArenaPlaces(self.space, export, cluster.clock)
        self.asks = EncodeAsks(
            incarnation.name, self.scheduler, DecoderLinks(self), self.places, self.handle
        )
        self.asked: list[tuple[str, list[int]]] = []
        self.is_changed = False  # since its tables were checked

    def handle(self, message: Any) -> None:
        self.is_changed = True
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
                self.places.note(members)
                encoders = [member.worker for member in members if member.role == "encoder"]
                if (epochs := self.scheduler.encodes.pool.report(encoders)) is not None:
                    self.scheduler.set_encoders(epochs)
            case ("encoded", key, _):
                if self.scheduler.encodes.expects(key):
                    self.content[self.space.take(key, TOKENS)] = key
                    self._arrived(key)
            case StatesWritten():
                for key in self.places.written(message):
                    if self.scheduler.encodes.expects(key) and key in self.space:
                        self._arrived(key)
            case EncodeFailed(key, error, True, sender, ticket, arena):
                self.places.answered([key], [ticket], sender, arena)
                self.scheduler.input_gone(key, error, sender)
            case Withdrawn(keys, sender, tickets, arena):
                self.places.answered(keys, tickets, sender, arena)
                self.scheduler.withdrawn(keys, sender)

    def write(self, rows: np.ndarray, key: str) -> None:
        """By an encoder, at any time."""
        free = set(self.space.free().tolist())
        assert not free.intersection(rows.tolist()), "a place that was given back is written"
        for other in self.hidden - {key}:
            assert not np.intersect1d(self.space.of(other), rows).size
        self.content[rows] = key

    def _arrived(self, key: str) -> None:
        self.hidden.add(key)
        self.scheduler.encoded(key, self.space.is_written(key))

    def load(self) -> dict[str, float]:
        return dict(self.scheduler.load())

    def step(self) -> None:
        """As a replica's."""
        scheduler = self.scheduler
        self.asks.ask_overdue()
        self._make_room()
        if commands := scheduler.next_encodes():
            self._make_room()
            self.asks.ask(commands)
        assert self._lacking() <= self.space.num_free, "more was asked for than has room"
        plan = scheduler.step()
        self.is_changed |= plan is not None
        if plan is not None:
            assert self.hidden >= {write.key for write in plan.cross_writes}
            self.space.launched = plan.number
            for write in plan.cross_writes:
                self.space.use(write.key)
                assert (self.content[self.space.of(write.key)] == write.key).all()
            self.space.settle(plan.number)
        self._make_room()
        self.asks.withdraw(scheduler.encodes.pop_withdrawals())
        if plan is not None:
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
        if self.is_changed:
            scheduler.pages.check()
            scheduler.batch.check()
        self.is_changed = False

    def _lacking(self) -> int:
        """Rows that hidden states which come another way than by a place will need."""
        encodes = self.scheduler.encodes
        coming = (key for key in encodes._work if encodes.expects(key) and key not in self.space)
        return TOKENS * sum(1 for _ in coming)

    def _make_room(self) -> None:
        """As `IncomingStates`."""
        for key in self.scheduler.encodes.pop_unwanted():
            self.hidden.discard(key)
            self.space.drop(key)
        self.scheduler.encodes.blocked = self.space.num_blocked

    def _result(self, plan: StepPlan, names: list[int]) -> StepResult:
        counts = np.zeros(len(names), np.int64) if plan.drafts is None else plan.drafts.counts
        tokens = np.full((len(names), counts.max() + 1), -9, np.int64)
        accepted = np.zeros(len(names), np.int64)
        for row in np.flatnonzero(plan.samples):
            name, known, count = names[row], int(plan.known_lens[row]), int(counts[row])
            tokens[row, : count + 1] = [token_at(name, known + i) for i in range(count + 1)]
            wrong = (i for i in range(count) if not is_drafted(name, known + i))
            accepted[row] = next(wrong, count)
        is_drafting = plan.drafts is not None
        return StepResult(
            tokens.reshape(-1), per_row=tokens.shape[1], accepted=accepted if is_drafting else None
        )
