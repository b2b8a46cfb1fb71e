"""Tells frontends and workers who the members of an engine are."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import ray

from antiphon.actors.address import Address, Host
from antiphon.actors.channel import PeerGone, Sender
from antiphon.actors.frames import MemberEncoder
from antiphon.actors.member_messages import Detach, Member, Members
from antiphon.actors.members import RUNNING, State
from antiphon.actors.membership import Membership

logger = logging.getLogger(__name__)

SILENT_SECONDS = 30.0  # a frontend from which nothing came for so long is gone
PAUSE_SECONDS = 5.0  # after a longer pause between rounds it was the supervisor that stood still
LOAD_SECONDS = 0.5  # between reports of loads to the frontends
TOLD_SECONDS = 0.5  # for workers to learn of new members before the frontends do


@dataclass
class _Frontend:
    """`dropped`: set once it is told no more."""

    sender: Sender
    heard_at: float
    dropped: asyncio.Event = field(default_factory=asyncio.Event)


class Announcer:
    """Workers learn of a change first, by calls of Ray that are waited for: a frontend that knows a
    new decoder sends requests, whose encoder must know where that decoder is. So frontends hear
    only what the workers were told; what changes meanwhile makes another round.

    `members`: those of now. `workers`: the handles of the running ones.
    """

    def __init__(
        self, members: Callable[[], list[Member]], workers: Callable[[], list[Any]]
    ) -> None:
        self._members, self._workers = members, workers
        self._frontends: dict[str, _Frontend] = {}
        self._expected: dict[str, float] = {}  # frontends of an earlier supervisor, since when
        self._changed = asyncio.Event()
        self._telling = asyncio.Lock()  # the workers: one after the other, the newest last
        self._last_round: float | None = None

    # ------------------------------------------------------------------ frontends

    def add(self, frontend: str, address: Address) -> asyncio.Event:
        """From now on it is told. Returns what is set when it is dropped."""
        sender = Sender(address, Host.here().node, encoder=MemberEncoder(address.token))
        self.remove(frontend)  # it may have been added by a call whose answer was lost
        self._frontends[frontend] = added = _Frontend(sender, time.monotonic())
        return added.dropped

    def expect(self, frontends: Iterable[str]) -> None:
        """Workers serve these, which have not attached to this supervisor yet. They are gone if
        they do not come."""
        now = time.monotonic()
        for frontend in frontends:
            if frontend not in self._frontends:
                self._expected.setdefault(frontend, now)

    def remove(self, frontend: str) -> None:
        self._expected.pop(frontend, None)
        if (removed := self._frontends.pop(frontend, None)) is not None:
            removed.dropped.set()
            removed.sender.close()

    def heard(self, frontend: str) -> None:
        """A frontend has sent a heartbeat."""
        if (known := self._frontends.get(frontend)) is not None:
            known.heard_at = time.monotonic()

    def _drop_silent(self, now: float) -> None:
        """Nobody waits for the requests of a process that was killed."""
        pause = now - (now if self._last_round is None else self._last_round)
        self._last_round = now
        for name, frontend in list(self._frontends.items()):
            if pause > PAUSE_SECONDS:  # heartbeats wait behind this round
                frontend.heard_at = min(frontend.heard_at + pause, now)
            self._drop_if_silent(name, now - frontend.heard_at)
        for name, since in list(self._expected.items()):
            if pause > PAUSE_SECONDS:
                self._expected[name] = since = min(since + pause, now)
            self._drop_if_silent(name, now - since)

    def _drop_if_silent(self, name: str, silence: float) -> None:
        if silence > SILENT_SECONDS:
            logger.warning("%s is dropped: it was silent for %.0f s", name, silence)
            self.remove(name)
            for handle in self._workers():
                handle.update.remote(Detach(name))

    # ------------------------------------------------------------------ members

    def changed(self) -> None:
        """The members have changed: they are announced as soon as possible."""
        self._changed.set()

    async def run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOAD_SECONDS)
            await self._round()
            self._drop_silent(time.monotonic())

    async def _round(self) -> None:
        if self._changed.is_set():
            self._changed.clear()
            members = await self.tell_workers()
        else:
            members = self._members()  # only their loads have changed
            if _chooses_encoders(members):
                for handle in self._workers():
                    handle.update.remote(Members(members))
        message = Members(members)
        for frontend in self._frontends.values():
            with contextlib.suppress(PeerGone):  # it is found silent
                frontend.sender.send(message)

    async def tell_workers(self) -> list[Member]:
        """Returns what they were told when each of them knows. One that does not answer is dead, or
        soon found so."""
        async with self._telling:
            members = self._members()
            message = Members(members)
            told = [
                asyncio.create_task(_outcome(handle.update.remote(message)))
                for handle in self._workers()
            ]
            if told:
                await asyncio.wait(told, timeout=TOLD_SECONDS)
        return members


def _chooses_encoders(members: list[Member]) -> bool:
    """True if decoders choose among encoders, by their loads. A colocated one asks its own."""
    encoders = [member for member in members if member.role == "encoder" and member.alive]
    own = {member.address for member in members if member.role == "decoder"}
    return len(encoders) > 1 and not any(member.address in own for member in encoders)


def described(membership: Membership) -> list[Member]:
    """The members as frontends and workers know them: a colocated process is one of each half."""
    return [
        Member(
            f"{half}-{member.name.rpartition('-')[2]}",
            half,
            member.epoch,
            member.address,
            alive=member.state in RUNNING,
            draining=member.state is State.DRAINING,
            load=dict(member.load),
            held=member.held,
            ended=member.ended,
            last_load=dict(member.last_load),
            gone=member.epoch if member.state is State.WAITING else member.epoch - 1,
        )
        for member in membership.members.values()
        for half in (("encoder", "decoder") if member.role == "colocated" else (member.role,))
    ]


async def _outcome(call: Any) -> None:
    with contextlib.suppress(ray.exceptions.RayError):
        await call
