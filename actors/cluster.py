"""The workers of a running engine as one of its frontends sees them, whoever started them."""

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast

import ray

from antiphon.actors.address import Address, Host
from antiphon.actors.blueprint import Started
from antiphon.actors.channel import AsyncReceiver, PeerGone, Sender
from antiphon.actors.messages import Attach, Detach, FrontendMessage, Member, Members, Message
from antiphon.actors.processes import Spot, own_error, why_gone
from antiphon.actors.pulse import Pulse
from antiphon.actors.session import session
from antiphon.actors.supervisor import Attachment
from antiphon.actors.workers import Handle, Workers
from antiphon.config.errors import AntiphonError, EngineDeadError
from antiphon.scheduler.request import Incarnation

logger = logging.getLogger(__name__)

END_SECONDS = 3.0  # for the supervisor to end its workers
CLOSED = "the process that started the engine has closed it"


class RayWorkers(Workers):
    """Made by `launch`, or by `attach` for an engine that another process has started. They keep
    this process connected to Ray until they are closed.

    `started`: the first processes of an engine that this process has started; it ends with them.
    """

    def __init__(
        self, supervisor: Any, attachment: Attachment, started: Iterable[Started] | None = None
    ) -> None:
        self.members = attachment.members
        self.info = attachment.info
        self.colocated = attachment.blueprint.placement.colocated
        self._supervisor, self._supervisor_address = supervisor, attachment.address
        self._started = None if started is None else list(started)
        self._receiver: AsyncReceiver | None = None
        self._senders: dict[str, Sender] = {}  # by worker; those of one process share one
        self._frontend = ""
        self._closing, self._closed = threading.Lock(), False
        self._pid = os.getpid()
        atexit.register(self.close)  # Ray's own exit would wait ten seconds for the workers

    # ------------------------------------------------------------------ messages

    def attach(self, frontend: str, loop: asyncio.AbstractEventLoop, handle: Handle) -> None:
        self._host, self._frontend, self._handle = Host.here(), frontend, handle
        self._failed = loop.create_future()
        self._receiver = AsyncReceiver(self._host)
        self._connect()
        receive = cast("Handle", self._receive)
        self._receiver.attach(loop, receive, self._note_failure)
        self._attached = self._supervisor.attach.remote(frontend, self._receiver.address)
        self._pulse = Pulse(Incarnation(frontend, 0), self._supervisor_address, lambda: ({}, b""))
        self._pulse.start()

    def _receive(self, message: FrontendMessage) -> None:
        if isinstance(message, Members):
            self._log_deaths(message.members)
            self.members = message.members
            self._connect()
        self._handle(message)

    def _log_deaths(self, members: Iterable[Member]) -> None:
        """Here too: the supervisor's own log is among those of Ray."""
        now = {member.name: member for member in members}
        for before in self.members:
            after = now.get(before.name)
            if after is None or not before.alive or before.draining:
                continue
            if not after.alive or after.epoch != before.epoch:
                incarnation = Incarnation(before.name, before.epoch)
                logger.warning("%s ended: %s", incarnation, after.ended)

    def _connect(self) -> None:
        """Connects with workers that have come, and leaves those that are gone."""
        assert self._receiver is not None
        known = {sender.address: sender for sender in self._senders.values()}
        senders: dict[Address, Sender] = {}
        self._senders = {}
        for member in self.members:
            if (address := member.address) is None:
                continue
            if address not in senders:
                sender = known.pop(address) if address in known else self._introduced(address)
                senders[address] = sender
            self._senders[member.name] = senders[address]
        for sender in known.values():
            sender.close()

    def _introduced(self, address: Address) -> Sender:
        assert self._receiver is not None
        sender = Sender(address, self._host.node)
        sender.send(Attach(self._frontend, self._receiver.address))
        return sender

    def introduce(self) -> None:
        assert self._receiver is not None
        for sender in dict.fromkeys(self._senders.values()):
            with suppress(PeerGone):  # that is known soon
                sender.send(Attach(self._frontend, self._receiver.address))

    def send(self, worker: str, message: Message) -> None:
        if (sender := self._senders.get(worker)) is None:
            raise PeerGone(f"{worker} is not running")
        sender.send(message)

    def _note_failure(self, error: Exception) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    # ------------------------------------------------------------------ health

    async def watch(self) -> None:
        ending = asyncio.ensure_future(self._ending())
        try:
            await asyncio.wait([ending, self._failed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
        if self._failed.done():
            self._failed.result()  # raises the error
        raise EngineDeadError(ending.result())

    async def _ending(self) -> str:
        """Why the engine can't go on, as soon as its supervisor knows or is gone."""
        try:
            return str(await self._attached)
        except ray.exceptions.RayError as error:
            for process in self._started or ():  # those that it started itself go with it
                process.kill()
            return (
                f"the engine's supervisor ended, as does one whose starter ends: {why_gone(error)}"
            )

    async def stats(self) -> list[dict[str, int]]:
        return cast("list[dict[str, int]]", await self._supervisor.stats.remote())

    async def processes(self) -> dict[str, Spot]:
        """Where the process of each running worker is."""
        return cast("dict[str, Spot]", await self._supervisor.processes.remote())

    async def scale(self, role: str, count: int) -> None:
        """As `Supervisor.scale`."""
        try:
            await self._supervisor.scale.remote(role, count)
        except AntiphonError as error:
            raise own_error(error) from None

    # ------------------------------------------------------------------ end

    def detach(self) -> None:
        for sender in dict.fromkeys(self._senders.values()):
            with suppress(PeerGone):
                sender.send(Detach(self._frontend))
            sender.close()
        if self._receiver is not None:
            self._receiver.close()
            self._pulse.closing.set()
        self._senders, self._receiver = {}, None

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        if os.getpid() != self._pid:
            return  # a copy in a forked child: the workers belong to its parent
        if ray.is_initialized():  # a call after the program left Ray would start another one
            self._leave() if self._started is None else self._end(self._started)
        session.leave()

    def _leave(self) -> None:
        """The engine goes on for its other frontends."""
        with suppress(ray.exceptions.RayError):
            ray.get(self._supervisor.detach.remote(self._frontend), timeout=END_SECONDS)

    def _end(self, started: Iterable[Started]) -> None:
        try:
            ray.get(self._supervisor.end.remote(CLOSED), timeout=END_SECONDS)
        except ray.exceptions.RayError:  # it is gone itself: those that it started go with it
            for process in started:
                process.kill()
        ray.kill(self._supervisor, no_restart=True)
