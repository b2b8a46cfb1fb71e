"""An engine of plain objects whose workers die and whose messages are late, doubled or lost.

Frontends are the real `OpenRequests`, decoders the real `Scheduler`, encoders the real
`EncoderJobs`. The models are played: each token is a function of the prompt and of its position, as
greedy decoding is. Between each two processes messages keep their order; between different pairs
they come in any order. A message to a life of a worker that is over is lost; one from it may still
come. Time passes only where a test lets it.
"""

import asyncio
import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from played_model import PlainInputs, text_of, undisturbed
from played_workers import DecoderNode, EncoderNode

from antiphon.actors.channel import PeerGone
from antiphon.actors.messages import (
    Input,
    Inputs,
    Member,
    Members,
    Output,
)
from antiphon.config.sampling import SamplingParams
from antiphon.engine.flights import CHECK_SECONDS
from antiphon.engine.open_request import OpenRequest
from antiphon.engine.requests import OpenRequests
from antiphon.inputs.prepared import EncoderInput, Prepared
from antiphon.scheduler.drafts import DraftLimits
from antiphon.scheduler.request import Incarnation

ROUND_SECONDS = 0.05  # in which everybody acts once
QUIET_SECONDS = 0.5  # the same, where no message was under way: all wait for some time to pass


@dataclass
class Wire:
    """Messages on their way from one life of a process to another one."""

    receive: Callable[[Any], None]
    messages: deque[Any] = field(default_factory=deque)

    def deliver(self) -> None:
        if self.messages:
            self.receive(self.messages.popleft())


class Frontend:
    """The workers as one frontend sees them, and its table of open requests."""

    colocated, members = False, ()

    def __init__(self, cluster: "Cluster", number: int) -> None:
        self.cluster = cluster
        self.requests = OpenRequests(PlainInputs(), 2, 2)  # type: ignore[arg-type]
        self.name = self.requests.frontend = f"frontend-{number}"
        self.requests.flights.frontend = self.requests.dispatcher.frontend = self.name
        self.requests.connect(self)  # type: ignore[arg-type]
        self.opened: list[tuple[OpenRequest, list[int]]] = []  # with the undisturbed tokens
        self.shown: list[list[int]] = []  # what the callers of streams have got

    def introduce(self) -> None:
        """All know it."""

    def send(self, worker: str, message: Any) -> None:
        if worker not in self.cluster.nodes:
            raise PeerGone(worker)
        self.cluster.send(self.name, worker, message)

    def submit(self, key: str, prompt: int, max_tokens: int, stream: bool, **options: Any) -> None:
        name = self.cluster.new_name()
        stop = options.pop("stop", ())
        params = SamplingParams(max_tokens=max_tokens, stop=[text_of([t]) for t in stop] or None)
        media = EncoderInput(key, "text", 8, np.zeros(8, np.int32))
        prepared = Prepared((media,), None, params)
        prompt_ids = [name, *range(2, 1 + prompt)]
        opened = self.requests.submit(prepared, prompt_ids, stream=stream, **options)
        self.opened.append((opened, undisturbed(name, prompt, max_tokens)))
        self.shown.append([])


class Cluster:
    """`poison`: keys of inputs that kill encoders; `poisonous`: names of requests that kill
    decoders. `drafts`: of decoders with a draft model."""

    def __init__(self, frontends: int = 2, drafts: DraftLimits | None = None) -> None:
        self.drafts = drafts
        self.nodes: dict[str, EncoderNode | DecoderNode] = {}
        self.epochs: dict[str, int] = {}
        self.wires: dict[tuple[Any, Any], Wire] = {}
        self.last_loads: dict[str, dict[str, float]] = {}  # heartbeats are quicker than deaths
        self.arenas: dict[str, DecoderNode] = {}  # the owner of each, by name
        self.poison: set[str] = set()
        self.poisonous: set[int] = set()
        self.deaths = self.lost = 0
        self.now, self._check_at = 0.0, CHECK_SECONDS
        self._names = 0
        self.frontends = {f"frontend-{i}": Frontend(self, i) for i in range(frontends)}
        for name in ("encoder-0", "encoder-1", "decoder-0", "decoder-1"):
            self.start(name)
        self.announce()

    def new_name(self) -> int:
        self._names += 1
        return 100 + self._names

    def send(self, sender: Any, receiver: str, message: Any) -> None:
        if receiver in self.frontends:
            life, receive = receiver, self.frontends[receiver].requests.handle
        elif receiver in self.nodes:
            node = self.nodes[receiver]
            life, receive = node.incarnation, node.handle
        else:
            return  # lost
        wire = self.wires.setdefault((sender, life), Wire(receive))
        is_shared = isinstance(
            message, (Output, Input, Inputs)
        )  # with the sender, which goes on using it
        wire.messages.append(copy.deepcopy(message) if is_shared else message)

    # ------------------------------------------------------------------ deaths

    def start(self, name: str) -> None:
        self.epochs[name] = self.epochs.get(name, 0) + 1
        kind = EncoderNode if name.startswith("encoder") else DecoderNode
        self.nodes[name] = kind(self, Incarnation(name, self.epochs[name]))

    def kill(self, name: str) -> None:
        """What was on its way to it is lost."""
        if (node := self.nodes.pop(name, None)) is not None:
            self.deaths += 1
            self.last_loads[name] = node.load()
            lost = [pair for pair in self.wires if pair[1] == node.incarnation]
            for pair in lost:
                del self.wires[pair]

    def restart(self) -> None:
        """As the supervisor does: who is dead is announced, and started again."""
        for name in list(self.epochs):
            if name not in self.nodes:
                self.announce()
                self.start(name)
                self.announce()

    def announce(self, suspect: str = "") -> None:
        """`suspect`: a worker that is taken for dead, and runs on until it is killed."""
        members = Members(
            [
                Member(
                    name,
                    name.split("-")[0],
                    epoch,
                    None,
                    alive=name in self.nodes and name != suspect,
                    last_load=self.last_loads.get(name, {}),
                    gone=epoch - (name in self.nodes),
                )
                for name, epoch in self.epochs.items()
            ]
        )
        for name in [*self.frontends, *self.nodes]:
            self.send("supervisor", name, members)

    # ------------------------------------------------------------------ time

    def clock(self) -> float:
        return self.now

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        while self._check_at <= self.now:
            self._check_at += CHECK_SECONDS
            for frontend in self.frontends.values():
                frontend.requests.flights.check()

    def deliver(self, choice: int, twice: bool = False) -> None:
        wires = [wire for wire in self.wires.values() if wire.messages]
        if wires:
            wire = wires[choice % len(wires)]
            if twice and not isinstance(wire.messages[0], Members):
                wire.messages.appendleft(copy.deepcopy(wire.messages[0]))
            wire.deliver()

    def lose(self, choice: int) -> None:
        """Loses any message but the supervisor's, which go by calls of Ray."""
        wires = [
            wire
            for wire in self.wires.values()
            if wire.messages and not isinstance(wire.messages[0], Members)
        ]
        if wires:
            wires[choice % len(wires)].messages.popleft()
            self.lost += 1

    async def round(self, twice: bool, lossy: bool, choice: int) -> None:
        """Everybody acts once, and what was sent arrives: from pairs in some order, maybe all of it
        twice."""
        await self.turn()
        self.pass_time(ROUND_SECONDS)
        for node in list(self.nodes.values()):
            if self.nodes.get(node.incarnation.name) is node:
                node.step()
        if lossy:
            self.lose(choice)
        for _ in range(sum(len(wire.messages) for wire in self.wires.values())):
            self.deliver(choice, twice)
            if twice:
                self.deliver(choice)
        await self.turn()

    def show(self) -> None:
        """Callers of streams take what has come."""
        for frontend in self.frontends.values():
            for (opened, _), shown in zip(frontend.opened, frontend.shown, strict=True):
                if opened.is_stream and opened.text is not None:
                    shown += opened.text.token_ids[len(shown) :]

    async def turn(self) -> None:
        """Of the event loop, in which frontends send what they have collected."""
        await asyncio.sleep(0)
        self.show()

    async def run(self, seconds: float = 150.0, lose: Callable[[int], bool] | None = None) -> None:
        """Until all requests have ended; what dies is restarted. `lose`: whether the message that
        is delivered next, of this number, is lost."""
        self.announce()
        end, number, before = self.now + seconds, 0, -1
        while self.now < end:
            if all(not opened.is_open for f in self.frontends.values() for opened, _ in f.opened):
                return
            self.restart()
            self.pass_time(QUIET_SECONDS if number == before else ROUND_SECONDS)
            before = number
            for node in list(self.nodes.values()):
                if self.nodes.get(node.incarnation.name) is node:
                    node.step()
            for pair in list(self.wires):
                while pair in self.wires and self.wires[pair].messages:
                    number += 1
                    is_lost = pair[0] != "supervisor" and lose is not None and lose(number)
                    if is_lost:
                        self.wires[pair].messages.popleft()
                    else:
                        self.wires[pair].deliver()
            await self.turn()
        raise AssertionError("not done")
