"""The worker of a rank that does not schedule: a loop over its leader's commands."""

import logging
from typing import Any, Never

import msgspec
import torch

from antiphon.actors.address import Address, Host
from antiphon.actors.rank_channel import RankAddress, RankInbox
from antiphon.actors.worker import IDLE_SECONDS, Worker
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.decoder.follower import DecoderFollower
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.transports.mapped import Handle
from antiphon.kv.transports.mapping import MappingError
from antiphon.runtime.ranks import Ranks
from antiphon.scheduler.request import Incarnation

logger = logging.getLogger(__name__)


class FollowerWorker(Worker[Never]):
    """Commands come straight from the channel: another thread in between would delay each step.

    Any error leaves the loop, and the process ends: the other ranks have gone on without it.
    """

    def __init__(
        self,
        incarnation: Incarnation,
        model: ModelConfig,
        config: EngineConfig,
        timestamps: TimestampRules | None,
        ranks: Ranks,
    ) -> None:
        """Loads one rank's part of the decoder half. Raises what `DecoderRunner` raises.
        `incarnation`: of the replica, as the leader has it."""
        super().__init__()
        self.incarnation = incarnation
        self.follower = DecoderFollower(model, config, timestamps, ranks)
        self._channel: RankInbox | None = None

    def listen(self, host: Host) -> Address:
        """Where commands are to be sent. They wait until the loop starts."""
        self._channel = RankInbox(host, self.incarnation.epoch)
        address = msgspec.structs.asdict(self._channel.address)
        return RankAddress(**address, arena=self._exported())

    def _exported(self) -> Handle | None:
        """The arena of this rank; None, and a line in the log, where it cannot be shared."""
        arena = self.follower.runner.arena
        try:
            return arena.export() if len(arena.states) else None
        except MappingError as error:
            logger.warning("hidden states come by way of the leader: %s", error)
            return None

    def loop(self) -> None:
        assert self._channel is not None
        try:
            super().loop()
        finally:
            self._channel.close()

    def _drain(self) -> None:
        assert self._channel is not None
        for command in self._channel.commands(self.poll_timeout):
            self.follower.handle(command)

    def run_once(self) -> None:
        """All work comes with commands."""

    def handle(self, message: Any) -> None:
        raise AssertionError("commands come over the channel")

    def refuse(self, message: Any, error: Exception) -> None:
        raise AssertionError("commands come over the channel")

    @property
    def device(self) -> torch.device:
        return self.follower.runner.device

    @property
    def poll_timeout(self) -> float:
        return IDLE_SECONDS
