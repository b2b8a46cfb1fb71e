"""A rank of an encoder replica other than its leader: its worker, and the Ray actor around it."""

from typing import Any

import torch

from antiphon.actors.base_actor import FollowerActor, claim_resources
from antiphon.actors.messages import Message
from antiphon.actors.worker import IDLE_SECONDS, Worker
from antiphon.config.options import EngineConfig
from antiphon.encoder.follower import EncoderFollower
from antiphon.encoder.rank_commands import EncodeBatch
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.ranks import Ranks
from antiphon.scheduler.request import Incarnation


class EncoderFollowerWorker(Worker[EncodeBatch]):
    """Encodes what its leader sends. Any error leaves the loop, and the process ends: the other
    ranks have gone on without it."""

    def __init__(self, model: ModelConfig, config: EngineConfig, ranks: Ranks) -> None:
        """Loads one rank's part of the encoder half. Raises what `EncoderRunner` raises."""
        super().__init__()
        self.follower = EncoderFollower(model, config, ranks)

    def handle(self, message: EncodeBatch) -> None:
        self.follower.handle(message)

    def refuse(self, message: EncodeBatch, error: Exception) -> None:
        raise error

    def run_once(self) -> None:
        """All work comes with commands."""

    @property
    def device(self) -> torch.device:
        return self.follower.runner.target.device

    @property
    def poll_timeout(self) -> float:
        return IDLE_SECONDS


class EncoderFollowerActor(FollowerActor):
    follower: EncoderFollowerWorker

    def load(
        self,
        incarnation: Incarnation,
        model: ModelConfig,
        config: EngineConfig,
        gpu_share: float,
        ranks: Ranks,
    ) -> dict[str, Any]:
        """Loads its part of the encoder half, at once with all other ranks. Its leader tells of
        the replica; raises what `EncoderFollowerWorker` raises."""
        claim_resources(config, gpu_share)
        self.follower = EncoderFollowerWorker(model, config, ranks)
        self.loops = [self.follower]
        return {}

    def receive(self, message: Message) -> None:
        """Members and frontends are its leader's business."""
        if isinstance(message, EncodeBatch):
            self.follower.send(message)
