"""The Ray actor that holds one rank of a decoder replica other than its leader."""

from typing import Any

from antiphon.actors.address import Address, Host
from antiphon.actors.base_actor import FollowerActor, claim_resources
from antiphon.actors.follower_worker import FollowerWorker
from antiphon.actors.messages import Detach, Members, Message
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.garbage import freeze_heap
from antiphon.runtime.ranks import Ranks
from antiphon.scheduler.request import Incarnation


class DecoderFollowerActor(FollowerActor):
    follower: FollowerWorker

    def load(
        self,
        incarnation: Incarnation,
        model: ModelConfig,
        config: EngineConfig,
        timestamps: TimestampRules | None,
        ranks: Ranks,
        gpu_share: float = 1.0,
    ) -> dict[str, Any]:
        """Loads its part of the decoder half, at once with all other ranks. Its leader tells of
        the replica; raises what `FollowerWorker` raises."""
        claim_resources(config, gpu_share)
        self.follower = FollowerWorker(incarnation, model, config, timestamps, ranks)
        self.loops = [self.follower]
        return {}

    def listen(self) -> Address:
        """Where its leader is to send commands."""
        freeze_heap()
        return self.follower.listen(Host.here())

    def receive(self, message: Message) -> None:
        assert isinstance(message, Members | Detach), "a rank that does not schedule has no peers"
