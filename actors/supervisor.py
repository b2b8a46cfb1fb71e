"""The supervisor of an engine: a named Ray actor that starts, watches and restarts its workers.

It carries out what `Membership` decides. It is never on the way of a request: frontends and workers
learn from it who the members are, and talk with each other.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import ray

from antiphon.actors.address import Address, Host
from antiphon.actors.announcer import SILENT_SECONDS, Announcer, described
from antiphon.actors.attachment import Attachment, Known
from antiphon.actors.background import Background
from antiphon.actors.blueprint import Blueprint, Started
from antiphon.actors.channel import Receiver
from antiphon.actors.frames import HeartbeatDecoder
from antiphon.actors.member_messages import Heartbeat, Member
from antiphon.actors.members import (
    RUNNING,
    Action,
    Announce,
    Kill,
    Limits,
    Start,
    State,
    Unusable,
)
from antiphon.actors.membership import Membership
from antiphon.actors.processes import Spot, own_error, why_gone
from antiphon.actors.recovery import recovered
from antiphon.actors.replica_processes import ReplicaProcesses
from antiphon.actors.scaling import Pools, check_scale
from antiphon.actors.starting import StartOrders
from antiphon.config.errors import AntiphonError, EngineDeadError, describe
from antiphon.scheduler.request import Incarnation

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1

Begin = Callable[[Incarnation, Started], Awaitable[None]]  # what makes an incarnation work


class Supervisor(StartOrders):
    """An asynchronous actor: all of it runs in one event loop."""

    def __init__(self, blueprint: Blueprint) -> None:
        super().__init__()
        self._blueprint = blueprint
        workers = blueprint.config.workers
        self._membership = Membership(
            Limits(
                heartbeat_timeout=workers.heartbeat_timeout,
                hang_timeout=blueprint.hang_timeout,
                startup_timeout=workers.startup_timeout,
                max_restarts=workers.max_restarts,
            )
        )
        self._pools = Pools(blueprint.bounds)
        self._processes: dict[Incarnation, ReplicaProcesses] = {}
        self._announcer = Announcer(self._members, self._running)
        self._info: dict[str, Any] = {}
        self._given: dict[Incarnation, Started] = {}
        self._began = False
        self._error: AntiphonError | None = None  # why the first start failed
        self._started, self._ended = asyncio.Event(), asyncio.Event()
        self._background = Background(self._failed)

    # ------------------------------------------------------------------ calls of frontends

    async def start(self, started: dict[Incarnation, Started]) -> Attachment:
        """Watches over the workers whose processes were `started`, and returns when all are ready.

        Raises the error of the first one that could not start.
        """
        self._given = dict(started)
        for role, count in self._blueprint.roles.items():
            self._membership.scale(role, count, time.monotonic())
        self._begin()
        return await self.attachment()

    async def resume(self, known: Known) -> None:
        """In the place of `start`, for an engine whose supervisor has died: this one, which Ray has
        started again, takes over what runs. Changes nothing in one that has begun."""
        if self._began:
            return
        colocated = self._blueprint.placement.colocated
        members, epoch = recovered(known.members, known.started, colocated, time.monotonic())
        self._info = known.info
        self._membership.recover(members, epoch)
        taken_over = {
            member.incarnation: ReplicaProcesses(known.started[member.incarnation])
            for member in members
            if member.state in RUNNING
        }
        for incarnation, started in known.started.items():
            if incarnation not in taken_over:
                started.kill()  # if its start or its end was under way
        self._processes |= taken_over
        self._begin()
        for incarnation, process in taken_over.items():
            self._background.spawn(self._follow(incarnation, process, self._take_over))

    def _begin(self) -> None:
        self._began = True
        loop = asyncio.get_running_loop()
        pass_on: Any = partial(loop.call_soon_threadsafe, cast("Any", self._receive))
        self._receiver = Receiver(Host.here(), pass_on, HeartbeatDecoder())
        self._receiver.start()
        self._act()
        self._background.spawn(self._keep_time())
        self._background.spawn(self._announcer.run())

    async def attachment(self) -> Attachment:
        """Once the engine has started. Raises why it can't go on."""
        await self._started.wait()
        self._check()
        members = await self._announcer.tell_workers()
        self._check()
        placement = "colocated" if self._blueprint.placement.colocated else "disaggregated"
        info = {"placement": placement, **self._info}
        return Attachment(self._receiver.address, self._blueprint, members, info)

    async def attach(self, frontend: str, address: Address) -> str:
        """Tells this frontend of the members, until the engine can't go on, or this frontend was
        silent for too long. Returns why, as soon as that is known."""
        dropped = asyncio.create_task(self._announcer.add(frontend, address).wait())
        ended = asyncio.create_task(self._ended.wait())
        await asyncio.wait([dropped, ended], return_when=asyncio.FIRST_COMPLETED)
        dropped.cancel()
        ended.cancel()
        return self._membership.unusable or f"{frontend} was silent for {SILENT_SECONDS:g} s"

    async def detach(self, frontend: str) -> None:
        """This frontend is closed."""
        self._announcer.remove(frontend)

    async def scale(self, role: str, count: int) -> None:
        """Starts workers of a role, or drains some, until there are `count`. Roles with bounds of
        their own (`encoder_max_replicas`, ...) go on changing. Raises ConfigurationError."""
        await self._started.wait()
        self._check()
        check_scale(role, count, self._blueprint.roles)
        self._membership.scale(role, count, time.monotonic())
        self._act()

    async def stats(self) -> list[dict[str, int]]:
        """The counters of each worker that answers."""
        await self._started.wait()
        calls = (handle.stats.remote() for handle in self._running())
        answers = await asyncio.gather(*calls, return_exceptions=True)
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def processes(self) -> dict[str, Spot]:
        """Where each running worker's process is. Of a replica of several ranks: the leader's under
        its name, and others' as `decoder-0/1`, ..."""
        await self._started.wait()
        return {
            f"{member.name}/{rank}" if rank else member.name: spot
            for member in self._membership.members.values()
            if member.state in RUNNING
            for rank, spot in enumerate(self._processes[member.incarnation].spots)
        }

    async def end(self, reason: str) -> None:
        """Ends all workers, and the engine for every frontend. Returns when they are gone."""
        self._membership.end(reason)
        self._act()
        while self._processes:
            await asyncio.sleep(0.01)

    def _running(self) -> list[Any]:
        """The handle of each worker that takes messages."""
        return [
            self._processes[member.incarnation].started.handle
            for member in self._membership.members.values()
            if member.state in RUNNING
        ]

    def _members(self) -> list[Member]:
        return described(self._membership)

    def _check(self) -> None:
        if self._membership.unusable is not None:
            raise self._error or EngineDeadError(self._membership.unusable)

    # ------------------------------------------------------------------ actions

    def _act(self) -> None:
        for action in self._membership.take_actions():
            self._carry_out(action)
        if self._membership.complete or self._membership.unusable is not None:
            self._started.set()

    def _carry_out(self, action: Action) -> None:
        match action:
            case Start():
                self._background.spawn(self._start(action))
            case Kill(incarnation, reason):
                logger.info("ending %s (epoch %d): %s", *incarnation, reason)
                self._background.spawn(self._kill(incarnation))
            case Announce():
                self._announcer.changed()
            case Unusable(reason):
                logger.error("the engine ends: %s", reason)
                self._ended.set()

    async def _start(self, order: Start) -> None:
        incarnation = order.incarnation
        started = self._given.pop(incarnation, None) or await self._ordered(order)
        if not self._membership.is_starting(incarnation):  # it was ended meanwhile
            return None if started is None else started.kill()
        started = started or self._blueprint.start(incarnation, order.role)
        self._processes[incarnation] = process = ReplicaProcesses(started)
        await self._follow(incarnation, process, self._connect)

    async def _connect(self, incarnation: Incarnation, started: Started) -> None:
        """A new one, once it has loaded."""
        info, *_ = await asyncio.gather(*(rank.loading for rank in started.ranks))
        self._info |= info
        followers = await asyncio.gather(
            *(rank.handle.follow.remote() for rank in started.followers)
        )
        address = await started.handle.connect.remote(
            self._members(), self._receiver.address, list(followers)
        )
        self._membership.ready(incarnation, address, time.monotonic())
        self._act()

    async def _take_over(self, _: Incarnation, started: Started) -> None:
        """One that has run under an earlier supervisor."""
        self._announcer.expect(await started.handle.supervise.remote(self._receiver.address))

    async def _follow(
        self, incarnation: Incarnation, process: ReplicaProcesses, begin: Begin
    ) -> None:
        """One incarnation, from its start to its end."""
        started = process.started
        try:
            process.spots = await asyncio.gather(*(rank.spot for rank in started.ranks))
            await begin(incarnation, started)
            reason = await process.first_end()
        except ray.exceptions.RayTaskError as failure:
            if isinstance(failure, AntiphonError) and not self._membership.complete:
                self._error = self._error or own_error(failure)
            reason = describe(own_error(failure))
        except ray.exceptions.RayError as failure:
            reason = why_gone(failure)
            if not started.followers:
                return self._gone(incarnation, reason)
            reason = f"one of its ranks ended: {reason}"
        self._membership.failed(incarnation, reason, time.monotonic())
        self._act()

    def _gone(self, incarnation: Incarnation, reason: str) -> None:
        """Ray has seen the end of its process. If that is being killed, `_kill` sees to the rest:
        Ray tells of the end before it has happened."""
        member = self._membership.members.get(incarnation.name)
        if member is None or member.incarnation != incarnation or member.state is State.ENDING:
            return
        if (process := self._processes.pop(incarnation, None)) is not None:
            process.started.release()
        self._membership.gone(incarnation, reason, time.monotonic())
        self._act()

    async def _kill(self, incarnation: Incarnation) -> None:
        if (process := self._processes.get(incarnation)) is not None:
            await process.end()
            self._processes.pop(incarnation, None)
        self._membership.gone(incarnation, "killed", time.monotonic())
        self._act()

    def _failed(self, error: BaseException) -> None:
        """An error in what runs beside everything else ends the engine: nobody acts any more."""
        logger.error("the supervisor failed", exc_info=error)
        self._membership.end(f"its supervisor failed: {describe(error)}")
        self._act()

    # ------------------------------------------------------------------ news

    def _receive(self, message: Heartbeat) -> None:
        load, now = message.load, time.monotonic()
        standstill = load.get("standstill", 0.0)
        self._announcer.heard(message.sender.name)
        self._membership.heartbeat(message.sender, load, message.held, standstill, now)
        self._act()

    async def _keep_time(self) -> None:
        while True:
            now = time.monotonic()
            self._membership.tick(now)
            self._pools.adjust(self._membership, now)
            self._act()
            await asyncio.sleep(TICK_SECONDS)
