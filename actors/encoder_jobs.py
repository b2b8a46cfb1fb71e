"""What an encoder worker has to encode: jobs from decoders, and their inputs from frontends.

A job and its input come from different processes, in any order. A job waits until its input is
here. The worker asks for one that was sent to another encoder, or that does not come soon. A
decoder that hears nothing of a job asks for it once more: the worker takes it if it has it not, and
else goes on with the one that it has.
"""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from antiphon.actors.job_queue import JobId, JobQueue, job_id
from antiphon.actors.messages import EncodeJob, Input, InputGone

STORE_BYTES = 1 << 30  # of inputs that came before their jobs; those with a job are always kept
ASK_SECONDS = 0.03  # an input is mostly on its way when its job comes
ANSWERED_SECONDS = 2.0  # an answer may cross a message that asks for it again
ASK_AGAIN_SECONDS = 0.5  # a frontend may have attached meanwhile, or a message was lost


@dataclass
class _Held:
    """An input, and the frontends that have sent it and not said that it is gone."""

    array: np.ndarray
    frontends: set[str]


@dataclass
class _Lacking:
    """Jobs for one input that is not here. `asking`: frontends that may hold it, the first one is
    asked next. `ask_at`: when."""

    ask_at: float
    jobs: list[EncodeJob] = field(default_factory=list)
    asking: deque[str] = field(default_factory=deque)

    def add(self, job: EncodeJob) -> None:
        """One that is here already may name more frontends, and another place."""
        names = list(map(job_id, self.jobs))
        if job_id(job) not in names:
            self.jobs.append(job)
        elif job.place is not None:
            self.jobs[names.index(job_id(job))] = job
        for frontend in job.frontends:
            if frontend not in self.asking:
                self.asking.append(frontend)


class EncoderJobs:
    """The jobs and inputs of one encoder worker. `clock`: seconds, never set back."""

    def __init__(
        self,
        batch_tokens: int,
        store_bytes: int = STORE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ready = JobQueue(batch_tokens, clock)
        self.bytes_held = 0
        self._store_bytes, self._clock = store_bytes, clock
        self._held: dict[str, _Held] = {}
        self._lacking: dict[str, _Lacking] = {}
        self._begun: set[JobId] = set()  # and not answered
        self._answered: OrderedDict[JobId, float] = OrderedDict()  # lately, and when
        self._tickets: dict[str, tuple[str, int]] = {}  # by decoder: its arena, and the last one

    def __len__(self) -> int:
        """Jobs that could begin now."""
        return len(self.ready)

    # ------------------------------------------------------------------ jobs

    def add(self, jobs: Iterable[EncodeJob], again: bool = False) -> None:
        """Takes jobs. Those that it has, begun or not, stay as they are. `again`: as `Encode`
        has it: such a message may have waited here while its jobs were encoded."""
        now = self._clock()
        for job in map(self._new_place, jobs):
            if job_id(job) in self._begun or (again and self._was_answered(job, now)):
                continue
            if job.key in self._held:
                self.ready.extend([job])
            elif (lacking := self._lacking.get(job.key)) is not None:
                lacking.add(job)
            else:
                patience = ASK_SECONDS if job.sent_ahead else 0.0
                self._lacking[job.key] = lacking = _Lacking(now + patience)
                lacking.add(job)

    def _new_place(self, job: EncodeJob) -> EncodeJob:
        """Without its place if that comes for the second time. A place is written once: afterwards
        its decoder may give it to another key."""
        if (place := job.place) is None:
            return job
        arena, last = self._tickets.get(job.decoder, ("", 0))
        if place.arena == arena and place.ticket <= last:
            return msgspec.structs.replace(job, place=None)
        self._tickets[job.decoder] = place.arena, place.ticket
        return job

    def next_batch(self) -> tuple[list[EncodeJob], list[np.ndarray]]:
        """Removes the jobs of one forward, and returns them with their inputs. These are let go
        unless other jobs need them. The jobs have begun until `end`."""
        jobs = self.ready.next_batch()
        self._begun.update(map(job_id, jobs))
        inputs = [self._held[job.key].array for job in jobs]
        for key in {job.key for job in jobs}:
            if key not in self.ready:
                self._drop(key)
        return jobs, inputs

    def end(self, jobs: Sequence[EncodeJob]) -> None:
        """These, which have begun, were answered."""
        now = self._clock()
        self._begun.difference_update(map(job_id, jobs))
        for job in jobs:
            self.ready.trials.leave(job.key)
        self._answered.update((job_id(job), now) for job in jobs)
        while self._answered and next(iter(self._answered.values())) < now - ANSWERED_SECONDS:
            self._answered.popitem(last=False)

    def _was_answered(self, job: EncodeJob, now: float) -> bool:
        return now - self._answered.get(job_id(job), -math.inf) < ANSWERED_SECONDS

    def withdraw(self, decoder: str, keys: Collection[str]) -> tuple[str, ...]:
        """Removes jobs of a decoder, but for those that have begun. Returns the keys that are to be
        confirmed: also those without a job, which was lost, or an answer to which was."""
        withdrawn = set(self.ready.withdraw(decoder, keys))
        for key in keys:
            if (lacking := self._lacking.get(key)) is not None:
                kept = [job for job in lacking.jobs if job.decoder != decoder]
                if len(kept) < len(lacking.jobs):
                    withdrawn.add(key)
                lacking.jobs = kept
                if not kept:
                    del self._lacking[key]
        for key in withdrawn - self._begun_keys:
            if key not in self.ready:
                self.ready.trials.leave(key)
        for key in withdrawn:
            if key in self._held and key not in self.ready:
                self._drop(key)
        return tuple(key for key in keys if (decoder, key) not in self._begun)

    @property
    def num_tokens(self) -> int:
        """Of all jobs that have not begun, also of those that wait for their inputs. From any
        thread."""
        lacking = [job for lacking in list(self._lacking.values()) for job in lacking.jobs]
        return self.ready.num_tokens + sum(job.num_tokens for job in lacking)

    @property
    def _begun_keys(self) -> set[str]:
        return {key for _, key in self._begun}

    @property
    def senders(self) -> set[str]:
        """Names of decoders and frontends that want something. From any thread."""
        entries = list(self._lacking.values())
        lacking = {job.decoder for entry in entries for job in entry.jobs}
        return self.ready.senders | lacking | {decoder for decoder, _ in list(self._begun)}

    @property
    def keys(self) -> list[str]:
        """Of the inputs that are here. From any thread."""
        return list(self._held)

    # ------------------------------------------------------------------ inputs

    def receive(self, message: Input) -> None:
        """Keeps an input, if a job needs it or there is room; the oldest ones are needed first."""
        key, array = message.key, message.array
        if (held := self._held.get(key)) is not None:
            held.frontends.add(message.frontend)
            return
        lacking = self._lacking.pop(key, None)
        if lacking is None and self.bytes_held + array.nbytes > self._store_bytes:
            return
        self._held[key] = _Held(array, {message.frontend})
        self.bytes_held += array.nbytes
        if lacking is not None:
            self.ready.extend(lacking.jobs)

    def gone(self, message: InputGone) -> list[EncodeJob]:
        """A frontend has let inputs go. Returns the jobs whose inputs nobody holds any more."""
        failed: list[EncodeJob] = []
        for key in message.keys:
            failed += self._gone(message.frontend, key)
        return failed

    def detach(self, frontend: str) -> list[EncodeJob]:
        """As if all inputs of `frontend` were gone."""
        failed: list[EncodeJob] = []
        for key in [*self._held, *self._lacking]:
            failed += self._gone(frontend, key)
        return failed

    def _gone(self, frontend: str, key: str) -> list[EncodeJob]:
        held, lacking = self._held.get(key), self._lacking.get(key)
        if held is not None:
            held.frontends.discard(frontend)
            if not held.frontends and key not in self.ready:
                self._drop(key)
        elif lacking is not None and frontend in lacking.asking:
            lacking.asking.remove(frontend)
            lacking.ask_at = self._clock()
            if not lacking.asking:
                del self._lacking[key]
                return lacking.jobs
        return []

    def _drop(self, key: str) -> None:
        self.bytes_held -= self._held.pop(key).array.nbytes

    def to_ask(self) -> dict[str, list[str]]:
        """The keys of inputs to ask for now, by the frontend to be asked."""
        asked: dict[str, list[str]] = {}
        if not self._lacking:
            return asked
        now = self._clock()
        for key, lacking in self._lacking.items():
            if lacking.ask_at <= now:
                lacking.ask_at = now + ASK_AGAIN_SECONDS
                asked.setdefault(lacking.asking[0], []).append(key)
                lacking.asking.rotate(-1)
        return asked
