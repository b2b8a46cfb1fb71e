"""An engine of plain objects whose workers die and whose messages are late, doubled or lost.

Frontends are the real `OpenRequests`, decoders the real `Scheduler`. Encoders and the model are
played: each token is a function of the prompt and of its position, as greedy decoding is. Between
each two processes messages keep their order; between different pairs they come in any order. A
message to a life of a worker that is over is lost; one from it may still come.
"""

import asyncio
import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from played_model import PlainInputs, text_of, token_at, undisturbed

from antiphon.actors.channel import PeerGone
from antiphon.actors.messages import Cancel, Input, InputGone, Member, Members, Output, Stop, Submit
from antiphon.config.sampling import SamplingParams
from antiphon.engine.open_request import OpenRequest
from antiphon.engine.requests import OpenRequests
from antiphon.inputs.prepared import EncoderInput, Prepared
from antiphon.kv.pages import PagePool
from antiphon.scheduler.limits import Limits
from antiphon.scheduler.plan import StepPlan, StepResult
from antiphon.scheduler.request import Incarnation
from antiphon.scheduler.scheduler import Scheduler

PAGES = 24


@dataclass
class Wire:
    """Messages on their way from one life of a process to another one."""

    receive: Callable[[Any], None]
    messages: deque[Any] = field(default_factory=deque)

    def deliver(self) -> None:
        if self.messages:
            self.receive(self.messages.popleft())


class Node:
    """One life of a worker."""

    def __init__(self, cluster: "Cluster", incarnation: Incarnation) -> None:
        self.cluster, self.incarnation = cluster, incarnation

    def send(self, receiver: str, message: Any) -> None:
        self.cluster.send(self.incarnation, receiver, message)


class EncoderNode(Node):
    def __init__(self, cluster: "Cluster", incarnation: Incarnation) -> None:
        super().__init__(cluster, incarnation)
        self.jobs: deque[tuple[str, str]] = deque()  # keys and decoders

    def handle(self, message: Any) -> None:
        match message:
            case ("encode", key, decoder):
                self.jobs.append((key, decoder))
            case ("withdraw", key, decoder) if (key, decoder) in self.jobs:
                self.jobs.remove((key, decoder))
                self.send(decoder, ("withdrawn", key, self.incarnation))

    def step(self) -> None:
        if self.jobs:
            key, decoder = self.jobs.popleft()
            if key in self.cluster.poison:
                return self.cluster.kill(self.incarnation.name)
            self.send(decoder, ("encoded", key, self.incarnation))


class DecoderNode(Node):
    def __init__(self, cluster: "Cluster", incarnation: Incarnation) -> None:
        super().__init__(cluster, incarnation)
        limits = Limits(
            max_num_seqs=3, max_batched_tokens=64, max_len=40, max_cross_len=40,
            encode_ahead_tokens=40, max_waiting=1000, page_size=4, aging_seconds=10.0,
        )  # fmt: skip
        self.scheduler = Scheduler(limits, PagePool(PAGES))
        self.hidden: set[str] = set()

    def handle(self, message: Any) -> None:
        match message:
            case Submit(requests):
                for request in requests:
                    self.scheduler.add(copy.copy(request))
            case Cancel(request_id):
                self.scheduler.cancel(request_id)
            case Stop(request_id):
                self.scheduler.stop(request_id)
            case Members(members):
                encoders = {m.name: m.epoch for m in members if m.role == "encoder" and m.alive}
                self.scheduler.set_encoders(encoders)
            case ("encoded", key, _):
                if self.scheduler.encodes.expects(key):
                    self.hidden.add(key)
                self.scheduler.encoded(key)
            case ("withdrawn", key, sender):
                self.scheduler.withdrawn([key], sender)

    def step(self) -> None:
        """As a replica's."""
        scheduler = self.scheduler
        for media, encoder in scheduler.next_encodes():
            if encoder in self.cluster.nodes:
                self.send(encoder, ("encode", media.key, self.incarnation.name))
            else:
                scheduler.encoder_lost(encoder)
        plan = scheduler.step()
        self.hidden -= set(scheduler.encodes.pop_unwanted())
        for key, encoder in scheduler.encodes.pop_withdrawals():
            self.send(encoder, ("withdraw", key, self.incarnation.name))
        if plan is not None:
            assert self.hidden >= {write.key for write in plan.cross_writes}
            names = scheduler.batch.tokens[plan.slots, 0].tolist()
            if self.cluster.poisonous & set(names):
                return self.cluster.kill(self.incarnation.name)
            scheduler.postprocess(plan, self._result(plan, names))
        for output in scheduler.outputs.pop():
            output.sender = self.incarnation
            self.send(output.frontend, Output(output))
        scheduler.pages.check()
        scheduler.batch.check()

    def _result(self, plan: StepPlan, names: list[int]) -> StepResult:
        rows = zip(names, plan.kv_lens.tolist(), plan.samples.tolist(), strict=True)
        tokens = [token_at(name, length) if samples else -9 for name, length, samples in rows]
        return StepResult(np.array(tokens, np.int64))


class Frontend:
    """The workers as one frontend sees them, and its table of open requests."""

    colocated, members = False, ()

    def __init__(self, cluster: "Cluster", number: int) -> None:
        self.cluster = cluster
        self.requests = OpenRequests(PlainInputs(), 2, 2)  # type: ignore[arg-type]
        self.name = self.requests.frontend = f"frontend-{number}"
        self.requests.flights.frontend = self.name
        self.requests.connect(self)  # type: ignore[arg-type]
        self.opened: list[tuple[OpenRequest, list[int]]] = []  # with the undisturbed tokens
        self.shown: list[list[int]] = []  # what the callers of streams have got

    def send(self, worker: str, message: Any) -> None:
        if isinstance(message, (Input, InputGone)):
            return
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
    decoders."""

    def __init__(self, frontends: int = 2) -> None:
        self.nodes: dict[str, EncoderNode | DecoderNode] = {}
        self.epochs: dict[str, int] = {}
        self.wires: dict[tuple[Any, Any], Wire] = {}
        self.poison: set[str] = set()
        self.poisonous: set[int] = set()
        self.deaths = 0
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
        wire.messages.append(copy.deepcopy(message) if isinstance(message, Output) else message)

    # ------------------------------------------------------------------ deaths

    def start(self, name: str) -> None:
        self.epochs[name] = self.epochs.get(name, 0) + 1
        kind = EncoderNode if name.startswith("encoder") else DecoderNode
        self.nodes[name] = kind(self, Incarnation(name, self.epochs[name]))

    def kill(self, name: str) -> None:
        """What was on its way to it is lost."""
        if (node := self.nodes.pop(name, None)) is not None:
            self.deaths += 1
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

    def announce(self) -> None:
        members = Members(
            [
                Member(name, name.split("-")[0], epoch, None, alive=name in self.nodes)
                for name, epoch in self.epochs.items()
            ]
        )
        for name in [*self.frontends, *self.nodes]:
            self.send("supervisor", name, members)

    # ------------------------------------------------------------------ time

    def deliver(self, choice: int, twice: bool = False) -> None:
        wires = [wire for wire in self.wires.values() if wire.messages]
        if wires:
            wire = wires[choice % len(wires)]
            if twice and not isinstance(wire.messages[0], Members):
                wire.messages.appendleft(copy.deepcopy(wire.messages[0]))
            wire.deliver()

    def lose(self, choice: int) -> None:
        """Loses new tokens that are on their way; ends are not lost while both sides live."""
        wires = [
            wire for wire in self.wires.values()
            if wire.messages and isinstance(wire.messages[0], Output)
            and not wire.messages[0].output.finished
        ]  # fmt: skip
        if wires:
            wires[choice % len(wires)].messages.popleft()

    async def round(self, twice: bool, lossy: bool, choice: int) -> None:
        """Everybody acts once, and what was sent arrives: from pairs in some order, maybe all of it
        twice."""
        await self.turn()
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

    async def run(self, rounds: int = 3000) -> None:
        """Until all requests have ended; what dies is restarted."""
        self.announce()
        for _ in range(rounds):
            if all(not opened.is_open for f in self.frontends.values() for opened, _ in f.opened):
                return
            self.restart()
            for node in list(self.nodes.values()):
                if self.nodes.get(node.incarnation.name) is node:
                    node.step()
            for pair in list(self.wires):
                while pair in self.wires and self.wires[pair].messages:
                    self.wires[pair].deliver()
            await self.turn()
        raise AssertionError("not done")
