"""The Ray actor that holds both halves: hidden states never leave the GPU."""

from collections import defaultdict
from typing import Any

from antiphon.actors.base_actor import claim_resources
from antiphon.actors.channel import OutputSender
from antiphon.actors.decoder_actor import DecoderActor
from antiphon.actors.decoder_worker import Send
from antiphon.actors.encoder_worker import EncoderWorker
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.decoder.room import check_room
from antiphon.families.checkpoint import ModelConfig


class ColocatedActor(DecoderActor):
    """An encoder and a decoder worker in one process, each on its own CUDA stream.

    One half computes while the other reads memory. Two processes on one GPU would only take turns.
    """

    def load(
        self,
        model: ModelConfig,
        config: EngineConfig,
        name: str,
        timestamps: TimestampRules | None,
        gpu_share: float = 1.0,
    ) -> dict[str, Any]:
        """Loads both halves: the encoder first, as the decoder's page pool takes the memory left.
        Returns the `info` of each; raises what the workers raise."""
        claim_resources(config, gpu_share)
        check_room(model, config)  # before the time that loading the encoder takes
        self.encoder = EncoderWorker(model, config)
        info = self._load_decoder(model, config, name, timestamps)
        self.loops.append(self.encoder)
        return {"encoder": self.encoder.info, **info}

    def connect(self, encoders: dict[str, Any], address: str, token: bytes) -> tuple[str, bytes]:
        self.start(OutputSender(address, token).send)
        return self._listen()

    def start(self, send: Send) -> None:
        """Connects the halves and starts them. `send` gets the decoder's outputs.

        Every request uses this process's encoder, whichever the router chose.
        """
        self.encoder.connect({self.decoder.name: self.decoder})
        self.decoder.connect(defaultdict(lambda: self.encoder), send)
