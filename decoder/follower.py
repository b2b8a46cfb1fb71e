"""A rank of a decoder replica that does not schedule: it runs what the leader plans."""

from typing import assert_never

import torch

from antiphon.config.decoding_rules import TimestampRules
from antiphon.config.options import EngineConfig
from antiphon.decoder.rank_commands import (
    AdoptStates,
    Align,
    CollectStates,
    DropStates,
    Launch,
    PutStates,
    RankCommand,
)
from antiphon.decoder.rank_states import adopt_states, collect_states, receive_states
from antiphon.decoder.runner import DecoderRunner
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.arena import StateArena
from antiphon.kv.batch_share import Shelf
from antiphon.runtime.ranks import RankError, Ranks


class DecoderFollower:
    """A runner that obeys. It keeps no results: the leader has the same tokens."""

    def __init__(
        self,
        model: ModelConfig,
        config: EngineConfig,
        timestamps: TimestampRules | None,
        ranks: Ranks,
        shelf: Shelf | None = None,
    ) -> None:
        """Loads its part of the decoder. Raises what `DecoderRunner` raises. `shelf`:
        of a colocated replica, where the encoder of this process puts its shares."""
        assert not ranks.is_leader
        self._shelf = shelf
        self.runner = DecoderRunner(model, config, timestamps, ranks)
        # Slots whose settings the device refused, by number of a plan that the leader
        # may not have run yet.
        self._refused: dict[int, tuple[int, ...]] = {}

    @property
    def device(self) -> torch.device:
        return self.runner.device

    @property
    def arena(self) -> StateArena:
        return self.runner.arena

    def handle(self, command: RankCommand) -> None:
        """Carries out a command. An error ends the replica: other ranks went on."""
        match command:
            case Launch():
                self._launch(command)
            case PutStates():
                receive_states(command, self.runner)
            case CollectStates():
                assert self._shelf is not None
                collect_states(command, self._shelf.take(command.batch), self.runner)
            case AdoptStates():
                adopt_states(command, self.runner)
            case DropStates(keys):
                for key in keys:
                    self.runner.arena.drop(key)
            case Align(sequences):
                assert self.runner.aligner is not None
                self.runner.aligner.launch(sequences)
            case _:
                assert_never(command)

    def _launch(self, command: Launch) -> None:
        self._check_refused(command)
        if refused := tuple(self.runner.launch(command.plan).refused):
            self._refused[command.plan.number] = refused

    def _check_refused(self, command: Launch) -> None:
        """Of all plans that the leader has run by now, and this rank before it."""
        own = {n: slots for n, slots in self._refused.items() if n <= command.launched}
        if (others := dict(command.refused)) != own:
            raise RankError(
                f"before step {command.plan.number}, this rank refused the settings of slots "
                f"{_by_step(own)}, the leader those of {_by_step(others)}"
            )
        self._refused = {n: slots for n, slots in self._refused.items() if n > command.launched}


def _by_step(refused: dict[int, tuple[int, ...]]) -> str:
    return ", ".join(f"{list(slots)} in step {n}" for n, slots in refused.items()) or "[]"
