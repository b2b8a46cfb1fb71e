"""The encoder jobs that could begin now, and which of them begin together."""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable

from antiphon.actors.messages import EncodeJob
from antiphon.scheduler.trials import Trials

JobId = tuple[str, str]  # decoder and key: content is encoded for a decoder once at a time


def job_id(job: EncodeJob) -> JobId:
    return job.decoder, job.key


class JobQueue:
    """Jobs that have not begun and whose inputs are here, the oldest first.

    An input of which encoders may have died is encoded by itself, when its turn in `trials` comes;
    for all that want it at once, whoever of them knows of the deaths.
    """

    def __init__(self, batch_tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`batch_tokens`: at most so many encoder tokens make one batch. `clock`: seconds."""
        self.trials: Trials[str] = Trials(clock)
        self._batch_tokens = batch_tokens
        self._jobs: OrderedDict[JobId, EncodeJob] = OrderedDict()
        self._keys: Counter[str] = Counter()  # of the jobs

    def extend(self, jobs: Iterable[EncodeJob]) -> None:
        """Adds those that it does not hold yet. Another place of one that it holds counts."""
        for job in jobs:
            if job.trial:
                self.trials.add(job.key, job.key)
            if (name := job_id(job)) not in self._jobs:
                self._keys[job.key] += 1
            elif job.place is None:
                continue
            self._jobs[name] = job

    def next_batch(self) -> list[EncodeJob]:
        """Removes the oldest jobs that fit one forward: at least one, unless the queue is empty or
        its jobs wait for their trials."""
        tried = self.trials.due() if self.trials else None
        jobs: list[EncodeJob] = []
        tokens = 0
        for job in self._jobs.values():
            if job.key in self.trials if tried is None else job.key != tried:
                continue
            if jobs and tokens + job.num_tokens > self._batch_tokens:
                break
            jobs.append(job)
            tokens += job.num_tokens
        return [self._remove(job_id(job)) for job in jobs]

    def withdraw(self, decoder: str, keys: Collection[str]) -> tuple[str, ...]:
        """Removes a decoder's jobs from the queue. Returns the keys that were still in it."""
        names = [(decoder, key) for key in dict.fromkeys(keys)]
        return tuple(self._remove(name).key for name in names if name in self._jobs)

    def _remove(self, name: JobId) -> EncodeJob:
        job = self._jobs.pop(name)
        self._keys[job.key] -= 1
        if not self._keys[job.key]:
            del self._keys[job.key]
        return job

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def num_tokens(self) -> int:
        """Of all its jobs. From any thread."""
        return sum(job.num_tokens for job in list(self._jobs.values()))

    @property
    def senders(self) -> set[str]:
        """Who wants its jobs. From any thread."""
        return {decoder for decoder, _ in list(self._jobs)}

    def __contains__(self, key: str) -> bool:
        return key in self._keys
