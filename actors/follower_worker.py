"""The worker of a rank that does not schedule: a loop over its leader's commands."""

from typing import Any, Never, Protocol

import msgspec
import torch

from antiphon.actors.address import Host
from antiphon.actors.rank_channel import RankAddress, RankInbox, RankWire
from antiphon.actors.worker import IDLE_SECONDS, Worker
from antiphon.config.worker_options import StateTransport
from antiphon.kv.arena import StateArena
from antiphon.kv.sharing import share


class Follower(Protocol):
    """One rank of a half: an `EncoderFollower` or a `DecoderFollower`."""

    @property
    def device(self) -> torch.device: ...

    @property
    def arena(self) -> StateArena | None:
        """Of a decoder's hidden states."""

    def handle(self, command: Any) -> None:
        """Carries out a command. What it raises ends the replica: other ranks have gone on."""


class FollowerWorker(Worker[Never]):
    """Commands come straight from the channel: another thread in between would delay each step.

    Any error leaves the loop, and the process ends: the other ranks have gone on without it.
    """

    def __init__(
        self, follower: Follower, wire: RankWire, transport: StateTransport = "auto"
    ) -> None:
        """`wire`: of the half's commands. `transport`: of hidden states."""
        super().__init__()
        self.follower, self._wire, self._transport = follower, wire, transport
        self._channel: RankInbox | None = None

    def listen(self, host: Host, epoch: int) -> RankAddress:
        """Where commands of the leader's life `epoch` are to be sent. They wait until the loop
        starts."""
        self._channel = RankInbox(host, epoch, self._wire)
        address = msgspec.structs.asdict(self._channel.address)
        arena = self.follower.arena
        handle = None if arena is None else share(arena, self._transport)
        return RankAddress(**address, arena=handle)

    def loop(self) -> None:
        assert self._channel is not None
        try:
            super().loop()
        finally:
            self._channel.close()

    def _drain(self) -> bool:
        """True if no command came: what one asks for is done by then."""
        assert self._channel is not None
        rests = True
        for command in self._channel.commands(self.poll_timeout):
            rests = False
            self.follower.handle(command)
        return rests

    def run_once(self) -> None:
        """All work comes with commands."""

    def handle(self, message: Any) -> None:
        raise AssertionError("commands come over the channel")

    def refuse(self, message: Any, error: Exception) -> None:
        raise AssertionError("commands come over the channel")

    @property
    def device(self) -> torch.device:
        return self.follower.device

    @property
    def poll_timeout(self) -> float:
        return IDLE_SECONDS
