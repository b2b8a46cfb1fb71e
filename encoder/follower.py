"""A rank of an encoder replica that takes no jobs: it encodes what the leader sends."""

import torch

from antiphon.config.options import EngineConfig
from antiphon.encoder.rank_commands import EncodeBatch
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.batch_share import Shelf
from antiphon.runtime.device import recorded_event
from antiphon.runtime.ranks import Ranks


class EncoderFollower:
    """A runner that obeys. Its hidden states are part of the leader's, or equal to them."""

    def __init__(
        self, model: ModelConfig, config: EngineConfig, ranks: Ranks, shelf: Shelf | None = None
    ) -> None:
        """Loads its part of the encoder. Raises what `EncoderRunner` raises. `shelf`: where the
        decoder of this process, in a colocated replica, takes this rank's shares from."""
        assert not ranks.is_leader
        assert ranks.exchanges == (shelf is None)
        self._shelf = shelf
        self.runner = EncoderRunner(model, config, ranks)

    @property
    def device(self) -> torch.device:
        return self.runner.target.device

    def handle(self, command: EncodeBatch) -> None:
        """What it raises ends the replica: the other ranks have gone on."""
        encoded = self.runner.encode(command.inputs)
        if self._shelf is not None:
            self._shelf.put(encoded.hidden, recorded_event(self.device))
