"""A rank of an encoder replica that takes no jobs: it encodes what the leader sends."""

from antiphon.config.options import EngineConfig
from antiphon.encoder.rank_commands import EncodeBatch
from antiphon.encoder.runner import EncoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.ranks import RankError, Ranks


class EncoderFollower:
    """A runner that obeys. Its hidden states are part of the leader's, or equal to them."""

    def __init__(self, model: ModelConfig, config: EngineConfig, ranks: Ranks) -> None:
        """Loads its part of the encoder. Raises what `EncoderRunner` raises."""
        assert not ranks.is_leader
        self.runner = EncoderRunner(model, config, ranks)
        self._next = 0  # number of the batch that is due

    def handle(self, command: EncodeBatch) -> None:
        """What it raises ends the replica: the other ranks have gone on."""
        if command.number != self._next:
            raise RankError(f"batch {command.number} came where batch {self._next} was due")
        self._next += 1
        self.runner.encode(command.inputs)
