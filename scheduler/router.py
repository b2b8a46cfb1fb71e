"""Chooses an encoder worker and a decoder replica for each request.

A worker's load is in encoder tokens: what it reported last, with what this frontend has sent to it
and seen end since. So several frontends share workers without talking to each other. Between two
reports the estimate misses what the others send, and what was on its way when a report was made.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from antiphon.scheduler.request import Incarnation
from antiphon.scheduler.sketch import fingerprint, fingerprints

REMEMBERED_MEDIA = 65_536
UNKNOWN_EPOCH = -1  # of workers of which no supervisor told yet
LOAD = "tokens"  # the entry of a report that a router reads

Role = Literal["encoder", "decoder"]


class Route(NamedTuple):
    """Names of the workers that a request goes through."""

    encoder: str
    decoder: str


@dataclass(frozen=True)
class WorkerState:
    """A worker as its last report and the supervisor say.

    `alive`: it takes messages; one that is not is being restarted. `draining`: it gets no new
    requests. `load`: its counters, of which these are read here: "tokens", the encoder tokens of
    its open requests or of its queue; of a decoder "open", its open requests, and "capacity", how
    many of them can run; and "heartbeats", whose number tells a new report from an old one.
    `held`: a sketch of the content keys that it holds. `last_load`: of its last life that died.
    """

    name: str
    role: Role
    epoch: int = 0
    alive: bool = True
    draining: bool = False
    load: Mapping[str, float] = field(default_factory=dict)
    held: bytes = b""
    last_load: Mapping[str, float] = field(default_factory=dict)

    @property
    def incarnation(self) -> Incarnation:
        return Incarnation(self.name, self.epoch)


class _Worker:
    """A worker as the router sees it."""

    def __init__(self, state: WorkerState) -> None:
        self.state = state
        self._tokens = self._requests = 0  # sent, without those that ended, since the report
        self.held = fingerprints(state.held)

    def update(self, state: WorkerState) -> None:
        if state.load != self.state.load:  # its count of heartbeats differs at least
            self._tokens = self._requests = 0
        if state.held != self.state.held:
            self.held = fingerprints(state.held)
        self.state = state

    def add(self, num_tokens: int) -> None:
        """A request is sent to it."""
        self._tokens += num_tokens
        self._requests += 1

    def remove(self, num_tokens: int) -> None:
        """A request that was sent to it has ended."""
        self._tokens -= num_tokens
        self._requests -= 1

    @property
    def has_reported(self) -> bool:
        return LOAD in self.state.load

    @property
    def load(self) -> float:
        return max(0.0, self.state.load.get(LOAD, 0.0) + self._tokens)

    @property
    def capacity(self) -> float:
        return self.state.load.get("capacity", math.inf)

    @property
    def queue(self) -> float:
        """How many requests would wait for others to end if one more came."""
        open_requests = self.state.load.get("open", 0.0) + self._requests
        return max(0.0, open_requests + 1 - self.capacity)

    @property
    def takes_requests(self) -> bool:
        return self.state.alive and not self.state.draining


class Router:
    """The least loaded pair of workers, unless a decoder already has the request's media, or was
    sent it last. That one is chosen while it has at most `imbalance_tokens` more load than the
    least loaded one, and the request need not queue there for longer: encoding once more is cheaper
    than a turn in line. So a decoder that joins a full pool gets requests, whatever they are for.

    `paired`: both halves share processes, so that a request's encoder is the one with its decoder's
    number.
    """

    def __init__(
        self,
        workers: Iterable[WorkerState] = (),
        imbalance_tokens: int = 65_536,
        paired: bool = False,
    ) -> None:
        self.imbalance_tokens, self.paired = imbalance_tokens, paired
        self._workers: dict[str, _Worker] = {}
        self._last_decoder: OrderedDict[str, str] = OrderedDict()  # by media key
        self.update(workers)

    def update(self, workers: Iterable[WorkerState]) -> None:
        """All workers as they are now; those that are missing exist no more."""
        known, self._workers = self._workers, {}
        for state in workers:
            worker = known.get(state.name)
            if worker is None or worker.state.epoch != state.epoch:
                worker = _Worker(state)  # nothing of its last life is left
            else:
                worker.update(state)
            self._workers[state.name] = worker

    @property
    def states(self) -> list[WorkerState]:
        return [worker.state for worker in self._workers.values()]

    def last_load(self, state: WorkerState) -> Mapping[str, float]:
        """What the last heartbeat of a life that is over said, which was known as `state`."""
        worker = self._workers.get(state.name)
        return state.load if worker is None else worker.state.last_load

    def incarnation(self, name: str) -> Incarnation | None:
        """The present life of a worker; None while it has none."""
        worker = self._workers.get(name)
        return worker.state.incarnation if worker is not None and worker.state.alive else None

    def load_of(self, name: str) -> float:
        return self._workers[name].load

    def may_come(self, needs_encoder: bool) -> bool:
        """True if each half that a request needs has a worker that takes requests, or will once it
        has started."""
        roles = {state.role for state in self.states if not state.draining}
        return "decoder" in roles and ("encoder" in roles or not needs_encoder)

    def route(self, key: str | None, num_tokens: int) -> Route | None:
        """Adds a request's load to its route. `release` removes it when the request ends.

        `key`: of its media; without any (None) it needs no encoder, and its route names none. None
        while no worker takes it.
        """
        decoders = self._takers("decoder", None)
        if not decoders:
            return None
        if key is None:
            decoder = self._least(decoders)
            decoder.add(num_tokens)
            return Route("", decoder.state.name)
        decoder = self._decoder_for(key, decoders)
        encoders = self._takers("encoder", self._partner(decoder) if self.paired else None)
        if not encoders:
            return None
        encoder = min(encoders, key=lambda worker: worker.load)
        self._remember(key, decoder.state.name)
        encoder.add(num_tokens)
        decoder.add(num_tokens)
        return Route(encoder.state.name, decoder.state.name)

    def release(self, route: Route, num_tokens: int) -> None:
        """The request has ended. An encoder that reports its queue had long been done with it."""
        if (decoder := self._workers.get(route.decoder)) is not None:
            decoder.remove(num_tokens)
        encoder = self._workers.get(route.encoder)
        if encoder is not None and not encoder.has_reported:
            encoder.remove(num_tokens)

    def _takers(self, role: Role, only: str | None) -> list[_Worker]:
        return [
            worker
            for worker in self._workers.values()
            if worker.state.role == role
            and worker.takes_requests
            and (only is None or worker.state.name == only)
        ]

    def _decoder_for(self, key: str, decoders: list[_Worker]) -> _Worker:
        """The least loaded decoder that has the media of `key`, or else the least loaded one."""
        least = self._least(decoders)
        last, held = self._last_decoder.get(key), fingerprint(key)
        owners = [
            worker
            for worker in decoders
            if (worker.state.name == last or held in worker.held)
            and worker.load - least.load <= self.imbalance_tokens
            and worker.queue <= (least.queue + worker.capacity if least.queue else 0)
        ]
        return self._least(owners) if owners else least

    @staticmethod
    def _least(workers: Iterable[_Worker]) -> _Worker:
        """The least loaded one of those that have a free slot, if any has."""
        return min(workers, key=lambda worker: (worker.queue > 0, worker.load))

    @staticmethod
    def _partner(decoder: _Worker) -> str:
        return decoder.state.name.replace("decoder", "encoder", 1)

    def _remember(self, key: str, decoder: str) -> None:
        self._last_decoder[key] = decoder
        self._last_decoder.move_to_end(key)
        if len(self._last_decoder) > REMEMBERED_MEDIA:
            self._last_decoder.popitem(last=False)
