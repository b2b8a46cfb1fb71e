"""The Ray actor that holds both halves: hidden states never leave the GPU."""

from collections.abc import Mapping
from typing import Any

from antiphon.actors.base_actor import Followers, claim_resources
from antiphon.actors.decoder_actor import DecoderActor
from antiphon.actors.encoder_worker import EncoderWorker
from antiphon.actors.links import Links
from antiphon.actors.messages import (
    AnyPeer,
    Attach,
    Detach,
    Encode,
    Input,
    InputGone,
    Inputs,
    Members,
    Message,
    Withdraw,
)
from antiphon.actors.news import News
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.decoder.room import check_room
from antiphon.families.checkpoint import ModelConfig
from antiphon.layers.shard import Part
from antiphon.runtime.ranks import Ranks
from antiphon.scheduler.request import Incarnation
from antiphon.scheduler.worker_names import encoder_beside


class ColocatedActor(DecoderActor):
    """An encoder and a decoder worker in one process, each on its own CUDA stream.

    One half computes while the other reads memory. Two processes on one GPU would only take turns.
    """

    def load(
        self,
        incarnation: Incarnation,
        model: ModelConfig,
        config: EngineConfig,
        timestamps: TimestampRules | None,
        gpu_share: float = 1.0,
        ranks: Ranks | None = None,
    ) -> dict[str, Any]:
        """Loads both halves: the encoder first, as the decoder's page pool takes the memory left.
        `ranks`: of the decoder, whose leader is here; it also leads the encoders beside them.
        Returns the `info` of each; raises what the
        workers raise."""
        claim_resources(config, gpu_share)
        part = Part.of(ranks or Ranks.alone(), model.decoder.num_layers)
        check_room(model, config, part)  # before the time that loading the encoder takes
        name, epoch = incarnation
        own = Incarnation(encoder_beside(name), epoch)
        encoder_ranks = None if ranks is None else Ranks.beside(ranks)
        self.encoder = EncoderWorker(own, model, config, encoder_ranks)
        info = self._load_decoder(incarnation, model, config, timestamps, ranks)
        self.encoder.news = News(self.decoder.news.due)  # one heartbeat for both
        self.loops.append(self.encoder)
        return {"encoder": self.encoder.info, **info}

    def start(self, node: str, frontends: Mapping[str, AnyPeer], followers: Followers = ()) -> None:
        """Connects the halves with each other, and starts them."""
        encoder, decoder = self.encoder.incarnation.name, self.decoder.incarnation.name
        self.encoder.connect(
            Links(node, {**frontends, decoder: self.decoder}),
            [follower["encoder"] for follower in followers],
        )
        self.decoder.connect(
            Links(node, {**frontends, encoder: self.encoder}),
            [follower["decoder"] for follower in followers],
        )

    def stats(self) -> dict[str, int]:
        return {**super().stats(), **self.encoder.stats()}

    def load_report(self) -> dict[str, float]:
        """The decoder's; but what both halves have dies together."""
        report, of_encoder = super().load_report(), self.encoder.load_report()
        others = self.encoder.senders - {self.decoder.incarnation.name}
        report["senders"] += len(others)
        report["trial"] = report["trial"] or of_encoder["trial"]
        return report

    def receive(self, message: Message) -> None:
        match message:
            case Encode() | Withdraw() | Input() | Inputs() | InputGone():
                self.encoder.send(message)
            case Attach() | Detach() | Members():
                self.encoder.send(message)
                self.decoder.send(message)
            case _:
                super().receive(message)
