"""The Ray actor that holds one encoder worker."""

from typing import Any

from antiphon.actors.base_actor import RemotePeer, WorkerActor, claim_resources, freeze_heap
from antiphon.actors.encoder_worker import EncoderWorker
from antiphon.actors.messages import DecoderMessage, EncoderMessage
from antiphon.config.options import EngineConfig
from antiphon.families.checkpoint import ModelConfig


class EncoderActor(WorkerActor):
    def load(self, model: ModelConfig, config: EngineConfig, gpu_share: float) -> dict[str, Any]:
        """Loads the encoder half. Returns its `info`; raises what `EncoderWorker` raises."""
        claim_resources(config, gpu_share)
        self.encoder = EncoderWorker(model, config)
        self.loops = [self.encoder]
        return {"encoder": self.encoder.info}

    def connect(self, decoders: list[Any]) -> None:
        """Starts the worker. `decoders`: handles of the decoders' actors, by index."""
        peers = {index: RemotePeer[DecoderMessage](actor) for index, actor in enumerate(decoders)}
        freeze_heap()
        self.encoder.connect(peers)

    def receive(self, message: EncoderMessage) -> None:
        self.encoder.send(message)
