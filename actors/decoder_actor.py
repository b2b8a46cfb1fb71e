"""The Ray actor that holds one decoder worker."""

from typing import Any

from antiphon.actors.base_actor import RemotePeer, WorkerActor, claim_resources, freeze_heap
from antiphon.actors.channel import CommandReceiver, OutputSender, node_address
from antiphon.actors.decoder_worker import DecoderWorker
from antiphon.actors.messages import DecoderMessage, EncoderMessage
from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.families.checkpoint import ModelConfig


class DecoderActor(WorkerActor):
    def load(
        self,
        model: ModelConfig,
        config: EngineConfig,
        index: int,
        timestamps: TimestampRules | None,
        gpu_share: float = 1.0,
    ) -> dict[str, Any]:
        """Loads the decoder half. Returns its `info`; raises what `DecoderWorker` raises."""
        claim_resources(config, gpu_share)
        return self._load_decoder(model, config, index, timestamps)

    def _load_decoder(
        self,
        model: ModelConfig,
        config: EngineConfig,
        index: int,
        timestamps: TimestampRules | None,
    ) -> dict[str, Any]:
        self.decoder = DecoderWorker(index, model, config, timestamps)
        self.loops = [self.decoder]
        return {"decoder": self.decoder.info}

    def connect(self, encoders: list[Any], address: str, token: bytes) -> tuple[str, bytes]:
        """Starts the worker. `encoders`: handles of the encoders' actors, by index. `address` and
        `token`: where the engine receives outputs. Returns those where this actor receives
        commands."""
        peers = {index: RemotePeer[EncoderMessage](actor) for index, actor in enumerate(encoders)}
        self.decoder.connect(peers, OutputSender(address, token).send)
        return self._listen()

    def _listen(self) -> tuple[str, bytes]:
        freeze_heap()
        receiver = CommandReceiver(node_address(), self.receive)
        receiver.start()
        self.loops.append(receiver)
        return receiver.address, receiver.token

    def receive(self, message: DecoderMessage) -> None:
        self.decoder.send(message)

    def stats(self) -> dict[str, int]:
        return self.decoder.stats()
