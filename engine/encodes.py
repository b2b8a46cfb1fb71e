"""Hidden states for callers: an engine's frontend asks encoders for them as a decoder does.

Inputs of one turn of the event loop go in one message to each encoder, which batches them with what
decoders ask for. An encoder that is not heard of is asked again; one that is gone, another is asked
in its place. An input that has seen two of them die is from then on encoded by itself, on trial
(see `Suspects`); it is given up when two have died during its trials.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from antiphon.actors.messages import Encode, EncodeFailed, EncodeJob
from antiphon.config.errors import EngineDeadError, RequestFailed
from antiphon.engine.dispatch import Dispatcher
from antiphon.inputs.prepared import EncoderInput
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.request import Incarnation
from antiphon.scheduler.router import Router
from antiphon.scheduler.suspects import KILLS, SUSPECT_DEATHS
from antiphon.scheduler.trials import trial_mark
from antiphon.scheduler.worker_load import UNKNOWN_EPOCH

AGAIN_SECONDS = 3.0  # after which an encoder is asked again


@dataclass(eq=False)
class _Wanted:
    """An input, the encoder that was asked, and the calls that wait for what it answers."""

    media: EncoderInput
    pooled: bool
    answer: asyncio.Future[torch.Tensor]
    users: set[int] = field(default_factory=set)
    encoder: str = ""
    asked: Incarnation | None = None  # the life of the encoder that was asked
    deaths: int = 0  # of encoders that had it
    kills: int = 0  # of them, during its trials

    @property
    def key(self) -> str:
        """Of the job: states and embedding of one input are two."""
        return job_key(self.media, self.pooled)


class Encodes:
    """The open encodes of one engine. For one event loop."""

    def __init__(self, dispatcher: Dispatcher, router: Router) -> None:
        self._dispatcher, self._router = dispatcher, router
        self._wanted: dict[str, _Wanted] = {}  # by key of the job
        self._outbox: list[_Wanted] = []
        self._users = itertools.count(-1, -1)  # numbers that no request has

    def __len__(self) -> int:
        return len(self._wanted)

    async def encode(self, media: EncoderInput, pooled: bool) -> np.ndarray:
        """The hidden states [rows, output size] of one input, or its embedding [size]; float32.

        Raises RequestFailed, and EngineDeadError if the engine ends.
        """
        user, key = next(self._users), job_key(media, pooled)
        if (wanted := self._wanted.get(key)) is None:
            answer: asyncio.Future[torch.Tensor] = asyncio.get_running_loop().create_future()
            self._wanted[key] = wanted = _Wanted(media, pooled, answer)
            self._send_soon(wanted)
        wanted.users.add(user)
        self._dispatcher.inputs.use(key, media.payload, user)
        try:
            packed = await self._answer(wanted)
        finally:
            wanted.users.discard(user)
            if not wanted.users:
                self._wanted.pop(key, None)
                wanted.answer.cancel()
            self._dispatcher.let_go(key, user)
        return await asyncio.to_thread(_on_host, packed)

    async def _answer(self, wanted: _Wanted) -> torch.Tensor:
        while True:
            done, _ = await asyncio.wait([wanted.answer], timeout=AGAIN_SECONDS)
            if done:
                return wanted.answer.result()
            self._send([wanted], again=True)

    # ------------------------------------------------------------------ to encoders

    def _send_soon(self, wanted: _Wanted) -> None:
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(wanted)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        self._send_new(outbox)

    def _send_new(self, outbox: Iterable[_Wanted]) -> None:
        """Those that nobody who is alive was asked for."""
        new = [wanted for wanted in outbox if wanted.asked is None and not wanted.answer.done()]
        self._send(new, again=False)

    def _send(self, outbox: list[_Wanted], again: bool) -> None:
        """To the encoders that were asked before, unless they are gone."""
        frontend, jobs = self._dispatcher.frontend, dict[str, list[EncodeJob]]()
        encoders = self._router.encoders
        loads = Counter(wanted.encoder for wanted in self._wanted.values())
        for wanted in outbox if encoders else []:
            if wanted.encoder not in encoders:
                wanted.encoder = min(encoders, key=lambda name: loads[name])
                loads[wanted.encoder] += 1
            wanted.asked = self._router.incarnation(wanted.encoder)
            key, media = wanted.key, wanted.media
            is_sent = self._dispatcher.send_input(wanted.encoder, key, media.payload)
            job = EncodeJob(
                key,
                media.num_tokens,
                frontend,
                (frontend,),
                is_sent,
                pooled=wanted.pooled,
                trial=wanted.deaths >= SUSPECT_DEATHS,
            )
            jobs.setdefault(wanted.encoder, []).append(job)
        for encoder, of_encoder in jobs.items():
            self._dispatcher.try_send(encoder, Encode(of_encoder, again))

    # ------------------------------------------------------------------ from encoders

    def receive(self, states: HiddenStates) -> None:
        """What comes twice, or for nobody, is dropped."""
        if states.ready is not None:
            states.ready.synchronize()  # of this process: an encoder's batch takes milliseconds
        parts = states.packed.split(list(states.lengths))
        for key, part in zip(states.keys, parts, strict=True):
            wanted = self._wanted.get(key)
            if wanted is not None and not wanted.answer.done():
                wanted.answer.set_result(part[0] if wanted.pooled else part)

    def fail(self, message: EncodeFailed) -> None:
        wanted = self._wanted.get(message.key)
        if wanted is None or wanted.answer.done():
            return
        if message.input_gone:  # the input, which is here, was lost on its way
            self._send([wanted], again=True)
        else:
            wanted.answer.set_exception(RequestFailed(message.error))

    def note_deaths(self) -> None:
        """Encoders may have died or have come: the router knows. What no encoder has is asked for
        at once."""
        states = {state.name: state for state in self._router.states}
        for wanted in self._wanted.values():
            asked, state = wanted.asked, states.get(wanted.encoder)
            if asked is None or asked == self._router.incarnation(asked.name):
                continue
            wanted.asked = None
            if asked.epoch == UNKNOWN_EPOCH or state is None or wanted.answer.done():
                continue
            wanted.deaths += 1
            wanted.kills += state.last_load.get("trial") == trial_mark(wanted.key)
            if wanted.kills >= KILLS:
                error = f"given up: {wanted.deaths} encoders died while they had it, {KILLS} alone"
                wanted.answer.set_exception(RequestFailed(error))
        self._send_new(self._wanted.values())

    def end_all(self, reason: str) -> None:
        """Ends every open encode with EngineDeadError."""
        for wanted in self._wanted.values():
            if not wanted.answer.done():
                wanted.answer.set_exception(EngineDeadError(reason))


def job_key(media: EncoderInput, pooled: bool) -> str:
    return f"{media.key}-pooled" if pooled else media.key


def _on_host(packed: torch.Tensor) -> np.ndarray:
    """A copy of its own: the tensor may be a part of a whole batch."""
    host: np.ndarray = packed.to("cpu", torch.float32, copy=True).numpy()
    return host
