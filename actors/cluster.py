"""The workers of a running engine as one of its frontends sees them, whoever started them."""

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, cast

import ray

from antiphon.actors.address import Address, Host
from antiphon.actors.attachment import Attachment, Known
from antiphon.actors.blueprint import Started
from antiphon.actors.channel import AsyncReceiver, PeerGone, Sender
from antiphon.actors.messages import Attach, Detach, FrontendMessage, Member, Members, Message
from antiphon.actors.processes import Spot
from antiphon.actors.session import session
from antiphon.actors.starting import Starter
from antiphon.actors.supervisor_link import SupervisorLink
from antiphon.actors.workers import Handle, Workers
from antiphon.config.errors import EngineDeadError
from antiphon.scheduler.request import Incarnation

logger = logging.getLogger(__name__)

END_SECONDS = 3.0  # for the supervisor to end its workers
CLOSED = "the process that started the engine has closed it"


class RayWorkers(Workers):
    """Made by `launch`, or by `attach` for an engine that another process has started. They keep
    this process connected to Ray until they are closed.

    `started`: the first processes of an engine that this process has started; it ends with them,
    and starts the later ones.
    """

    def __init__(
        self,
        supervisor: Any,
        attachment: Attachment,
        started: Mapping[Incarnation, Started] | None = None,
    ) -> None:
        self.members = attachment.members
        self.info = attachment.info
        self.colocated = attachment.blueprint.placement.colocated
        self._started = None if started is None else dict(started)
        self._starter: Starter | None = None
        if self._started is not None:
            self._starter = Starter(attachment.blueprint, self._started)
        self._starting: asyncio.Task[None] | None = None
        self._supervisor = SupervisorLink(supervisor, attachment)
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
        self._supervisor.attach(frontend, self._receiver.address)
        if self._starter is not None:
            self._starting = loop.create_task(self._starter.serve(self._supervisor.handle))
            self._starting.add_done_callback(self._note_end_of_starts)

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

    def _note_end_of_starts(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._note_failure(error if isinstance(error, Exception) else RuntimeError(error))

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
        """Why the engine can't go on, as soon as its supervisor knows or is gone for good."""
        try:
            return await self._supervisor.ending(self._known)
        except EngineDeadError as error:
            for process in (self._started or {}).values():
                process.kill()
            return str(error)

    def _known(self) -> Known | None:
        """In the process that has started the engine."""
        if self._started is None:
            return None
        return Known(self._started, list(self.members), self.info)

    async def stats(self) -> list[dict[str, int]]:
        return cast("list[dict[str, int]]", await self._supervisor.call("stats"))

    async def processes(self) -> dict[str, Spot]:
        """Where the process of each running worker is."""
        return cast("dict[str, Spot]", await self._supervisor.call("processes"))

    async def scale(self, role: str, count: int) -> None:
        """As `Supervisor.scale`."""
        await self._supervisor.call("scale", role, count)

    # ------------------------------------------------------------------ end

    def detach(self) -> None:
        for sender in dict.fromkeys(self._senders.values()):
            with suppress(PeerGone):
                sender.send(Detach(self._frontend))
            sender.close()
        if self._starting is not None:
            with suppress(RuntimeError):  # its loop is closed: the task runs no more
                self._starting.get_loop().call_soon_threadsafe(self._starting.cancel)
        if self._receiver is not None:
            self._receiver.close()
            self._supervisor.detach()
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
            self._leave() if self._starter is None else self._end(self._starter)
        session.leave()

    def _leave(self) -> None:
        """The engine goes on for its other frontends."""
        with suppress(ray.exceptions.RayError):
            ray.get(self._supervisor.handle.detach.remote(self._frontend), timeout=END_SECONDS)

    def _end(self, starter: Starter) -> None:
        starter.close()
        try:
            ray.get(self._supervisor.handle.end.remote(CLOSED), timeout=END_SECONDS)
        except ray.exceptions.RayError:  # it is gone itself, and what it has started with it
            for process in list(starter.started.values()):
                process.kill()
        ray.kill(self._supervisor.handle, no_restart=True)
