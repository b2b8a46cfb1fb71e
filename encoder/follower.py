"""A rank of an encoder replica that takes no jobs: it encodes what the leader sends."""

import torch

from antiphon.config.options import EngineConfig
from antiphon.encoder.rank_commands import EncodeBatch
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.ranks import Ranks


class EncoderFollower:
    """A runner that obeys. Its hidden states are part of the leader's, or equal to them."""

    def __init__(self, model: ModelConfig, config: EngineConfig, ranks: Ranks) -> None:
        """Loads its part of the encoder. Raises what `EncoderRunner` raises."""
        assert not ranks.is_leader
        self.runner = EncoderRunner(model, config, ranks)

    @property
    def device(self) -> torch.device:
        return self.runner.target.device

    def handle(self, command: EncodeBatch) -> None:
        """What it raises ends the replica: the other ranks have gone on."""
        self.runner.encode(command.inputs)
