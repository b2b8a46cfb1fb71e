"""The Ray actor that holds one rank of a replica other than its leader."""

from typing import Any

from antiphon.actors.address import Address, Host
from antiphon.actors.base_actor import WorkerActor, claim_resources
from antiphon.actors.follower_worker import FollowerWorker
from antiphon.actors.messages import Message
from antiphon.actors.rank_channel import DecoderWire, EncoderWire
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.decoder.follower import DecoderFollower
from antiphon.encoder.follower import EncoderFollower
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.batch_share import Shelf
from antiphon.runtime.garbage import freeze_heap
from antiphon.runtime.ranks import Ranks


class FollowerActor(WorkerActor):
    """Only its leader speaks to it, and of the replica only its leader is spoken of."""

    workers: dict[str, FollowerWorker]  # by half

    def load(
        self,
        role: str,
        model: ModelConfig,
        config: EngineConfig,
        timestamps: TimestampRules | None,
        ranks: Ranks,
        timeout: float,
        gpu_share: float = 1.0,
    ) -> dict[str, Any]:
        """Loads its part of one half or of both, at once with all other ranks. Raises what
        `EncoderFollower` and `DecoderFollower` raise. `timeout`: seconds that one half waits for
        the other."""
        claim_resources(config, gpu_share)
        self.workers = {}
        shelf = None
        if role == "colocated":
            shelf, beside = Shelf(timeout), Ranks.beside(ranks)
            encoder = EncoderFollower(model, config, beside, shelf)
            self.workers["encoder"] = FollowerWorker(encoder, EncoderWire())
        elif role == "encoder":
            encoder = EncoderFollower(model, config, ranks)
            self.workers["encoder"] = FollowerWorker(encoder, EncoderWire())
        if role != "encoder":  # last: its pool takes the memory that is left
            decoder = DecoderFollower(model, config, timestamps, ranks, shelf)
            transport = config.workers.state_transport
            self.workers["decoder"] = FollowerWorker(decoder, DecoderWire(), transport)
        self.loops = [*self.workers.values()]
        return {}

    def listen(self, epoch: int) -> dict[str, Address]:
        """Where its leader, in that life, is to send the commands of each half."""
        freeze_heap()
        host = Host.here()
        return {half: worker.listen(host, epoch) for half, worker in self.workers.items()}

    def start(self) -> None:
        for worker in self.workers.values():
            worker.start()

    def receive(self, message: Message) -> None:
        """Members and frontends are its leader's business."""

    def load_report(self) -> dict[str, float]:
        """Its leader's load is that of all ranks."""
        return {"tokens": 0.0, "open": 0.0, "capacity": 0.0}
