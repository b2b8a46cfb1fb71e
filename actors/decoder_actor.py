"""The Ray actor that holds one decoder worker."""

import threading
from collections.abc import Mapping
from typing import Any

from antiphon.actors.base_actor import Followers, LeaderActor, claim_resources
from antiphon.actors.decoder_worker import DecoderWorker
from antiphon.actors.links import Links
from antiphon.actors.messages import AnyPeer, Message
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.handoff import HiddenStates
from antiphon.kv.transports.frames import Arrivals
from antiphon.runtime.ranks import Ranks
from antiphon.scheduler.request import Incarnation


class DecoderActor(LeaderActor):
    def load(
        self,
        incarnation: Incarnation,
        model: ModelConfig,
        config: EngineConfig,
        timestamps: TimestampRules | None,
        gpu_share: float = 1.0,
        ranks: Ranks | None = None,
    ) -> dict[str, Any]:
        """Loads the decoder half. Returns its `info`; raises what `DecoderWorker` raises."""
        claim_resources(config, gpu_share)
        return self._load_decoder(incarnation, model, config, timestamps, ranks)

    def _load_decoder(
        self,
        incarnation: Incarnation,
        model: ModelConfig,
        config: EngineConfig,
        timestamps: TimestampRules | None,
        ranks: Ranks | None = None,
    ) -> dict[str, Any]:
        self.decoder = DecoderWorker(incarnation, model, config, timestamps, ranks)
        self._arrivals = Arrivals(self.decoder.device)
        self.loops = [self.decoder]
        return {"decoder": self.decoder.info}

    def start(self, node: str, frontends: Mapping[str, AnyPeer], followers: Followers = ()) -> None:
        self.decoder.connect(
            Links(node, frontends), [follower["decoder"] for follower in followers]
        )

    def receive(self, message: Message) -> None:
        if isinstance(message, HiddenStates):
            message = self._arrivals.on_device(message)
        self.decoder.send(message)  # type: ignore[arg-type]  # the worker refuses others by name

    def load_report(self) -> dict[str, float]:
        return self.decoder.load_report()

    @property
    def news(self) -> threading.Event:
        return self.decoder.news.due

    def held(self) -> bytes:
        return self.decoder.held()

    def frontends(self) -> list[str]:
        return self.decoder.frontends

    def stats(self) -> dict[str, int]:
        return self.decoder.stats()
