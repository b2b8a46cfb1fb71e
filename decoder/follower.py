"""A rank of a decoder replica that does not schedule: it runs what the leader plans."""

from typing import assert_never

from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.decoder.rank_commands import (
    DropStates,
    Launch,
    PutStates,
    RankCommand,
    RankError,
)
from antiphon.decoder.rank_states import receive_states
from antiphon.decoder.runner import DecoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.runtime.ranks import Ranks


class DecoderFollower:
    """A runner that obeys. It keeps no results: the leader has the same tokens."""

    def __init__(
        self,
        model: ModelConfig,
        config: EngineConfig,
        timestamps: TimestampRules | None,
        ranks: Ranks,
    ) -> None:
        """Loads its part of the decoder. Raises what `DecoderRunner` raises."""
        assert not ranks.is_leader
        self.runner = DecoderRunner(model, config, timestamps, ranks)
        self._refused: tuple[int, ...] = ()

    def handle(self, command: RankCommand) -> None:
        """Carries out a command. What it raises ends the replica: other ranks have gone on."""
        match command:
            case Launch():
                self._launch(command)
            case PutStates():
                receive_states(command, self.runner)
            case DropStates(keys):
                for key in keys:
                    self.runner.arena.drop(key)
            case _:
                assert_never(command)

    def _launch(self, command: Launch) -> None:
        if command.refused != self._refused:
            raise RankError(
                f"before step {command.plan.number}, this rank refused the settings of slots "
                f"{list(self._refused)}, the leader those of {list(command.refused)}"
            )
        self._refused = tuple(self.runner.launch(command.plan).refused)
