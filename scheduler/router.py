"""Chooses a decoder replica for each request, and the encoder that its inputs are sent to ahead.

Which encoder does the work is the decoder's choice, when it asks for it
(`EncoderPool`): it mostly falls on the one that has the input. Several frontends share
workers without talking to each other, by the loads that workers report.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from antiphon.scheduler.request import Incarnation
from antiphon.scheduler.sketch import fingerprint
from antiphon.scheduler.worker_load import Role, WorkerLoad, WorkerState
from antiphon.scheduler.worker_names import encoder_beside

REMEMBERED_MEDIA = 65_536


class Route(NamedTuple):
    """Names of workers: `decoder` gets the request, `encoder` its inputs, ahead of need."""

    encoder: str
    decoder: str


class Router:
    """The least loaded pair of workers, unless a decoder already has the request's
    media, or was sent it last. That one is chosen while it has at most
    `imbalance_tokens` more load than the least loaded one, and the request need not
    queue there for longer: encoding once more is cheaper than a turn in line. So a
    decoder that joins a full pool gets requests, whatever they are for.

    `paired`: both halves share processes, so that a request's encoder is the one with
    its decoder's number.
    """

    def __init__(
        self,
        workers: Iterable[WorkerState] = (),
        imbalance_tokens: int = 65_536,
        paired: bool = False,
    ) -> None:
        self.imbalance_tokens, self.paired = imbalance_tokens, paired
        self._workers: dict[str, WorkerLoad] = {}
        self._last_decoder: OrderedDict[str, str] = OrderedDict()  # by media key
        self.update(workers)

    def update(self, workers: Iterable[WorkerState]) -> None:
        """All workers as they are now; those that are missing exist no more."""
        known, self._workers = self._workers, {}
        for state in workers:
            worker = known.get(state.name)
            if worker is None or worker.state.epoch != state.epoch:
                worker = WorkerLoad(state)  # nothing of its last life is left
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

    @property
    def encoders(self) -> list[str]:
        """The names of those that take work."""
        return [worker.state.name for worker in self._takers("encoder", None)]

    def may_come(self, needs_encoder: bool) -> bool:
        """True if each half that a request needs has a worker that takes requests, or
        will once it has started."""
        roles = {state.role for state in self.states if not state.draining}
        return "decoder" in roles and ("encoder" in roles or not needs_encoder)

    def route(self, key: str | None, num_tokens: int) -> Route | None:
        """Adds a request's load to its route. `release` removes it when the request ends.

        `key`: of its media; without any (None) it needs no encoder, and its route names
        none. None while no worker takes it.
        """
        decoders = self._takers("decoder", None)
        if not decoders:
            return None
        if key is None:
            decoder = self._least(decoders)
            decoder.add(num_tokens)
            return Route("", decoder.state.name)
        decoder = self._decoder_for(key, decoders)
        partner = encoder_beside(decoder.state.name) if self.paired else None
        encoders = self._takers("encoder", partner)
        if not encoders:
            return None
        encoder = encoders[0]
        if len(encoders) > 1:
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

    def _takers(self, role: Role, only: str | None) -> list[WorkerLoad]:
        return [
            worker
            for worker in self._workers.values()
            if worker.state.role == role
            and worker.takes_requests
            and (only is None or worker.state.name == only)
        ]

    def _decoder_for(self, key: str, decoders: list[WorkerLoad]) -> WorkerLoad:
        """The least loaded decoder that has the media of `key`, or else the least loaded one."""
        if len(decoders) == 1:
            return decoders[0]
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
    def _least(workers: Iterable[WorkerLoad]) -> WorkerLoad:
        """The least loaded one of those that have a free slot, if any has."""
        return min(workers, key=lambda worker: (worker.queue > 0, worker.load))

    def _remember(self, key: str, decoder: str) -> None:
        self._last_decoder[key] = decoder
        self._last_decoder.move_to_end(key)
        if len(self._last_decoder) > REMEMBERED_MEDIA:
            self._last_decoder.popitem(last=False)
