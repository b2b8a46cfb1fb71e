"""The Ray actor that holds one encoder worker."""

import threading
from collections.abc import Mapping
from typing import Any

from antiphon.actors.base_actor import Followers, LeaderActor, claim_resources
from antiphon.actors.encoder_worker import EncoderWorker
from antiphon.actors.links import Links
from antiphon.actors.messages import AnyPeer, Message
from antiphon.config.options import EngineConfig
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.ranks import Ranks
from antiphon.scheduler.request import Incarnation


class EncoderActor(LeaderActor):
    def load(
        self,
        incarnation: Incarnation,
        model: ModelConfig,
        config: EngineConfig,
        gpu_share: float,
        ranks: Ranks | None = None,
    ) -> dict[str, Any]:
        """Loads the encoder half. Returns its `info`; raises what `EncoderWorker` raises."""
        claim_resources(config, gpu_share)
        self.encoder = EncoderWorker(incarnation, model, config, ranks)
        self.loops = [self.encoder]
        return {"encoder": self.encoder.info}

    def start(self, node: str, frontends: Mapping[str, AnyPeer], followers: Followers = ()) -> None:
        self.encoder.connect(
            Links(node, frontends), [follower["encoder"] for follower in followers]
        )

    def receive(self, message: Message) -> None:
        self.encoder.send(message)  # type: ignore[arg-type]  # the worker refuses others by name

    def load_report(self) -> dict[str, float]:
        return self.encoder.load_report()

    def frontends(self) -> list[str]:
        return self.encoder.frontends

    def stats(self) -> dict[str, int]:
        return self.encoder.stats()

    @property
    def news(self) -> threading.Event:
        return self.encoder.news.due

    def held(self) -> bytes:
        return self.encoder.held()
