"""The other ranks of a decoder replica, as its leader sees them."""

import numpy as np

from antiphon.config.errors import describe
from antiphon.decoder.rank_commands import CollectStates, Followers, PutStates, RankCommand
from antiphon.decoder.rank_states import broadcast_states, collect_states
from antiphon.decoder.runner import DecoderRunner
from antiphon.kv.batch_share import SharedBatch
from antiphon.kv.handoff import HiddenStates
from antiphon.runtime.ranks import RankError


class OtherRanks:
    """Keeps the other ranks in step with `runner`, the leader's. Every method raises
    RankError when the ranks no longer agree, and does nothing if there are none."""

    def __init__(self, runner: DecoderRunner, followers: Followers) -> None:
        self._runner, self._followers = runner, followers
        self.exist = not runner.ranks.is_alone

    def tell(self, command: RankCommand) -> None:
        """Sends a command to all of them."""
        if not self.exist:
            return
        try:
            self._followers(command)
        except Exception as error:
            raise RankError(
                f"{type(command).__name__} was not sent to all ranks: {describe(error)}"
            ) from error

    def share(self, states: HiddenStates, rows: np.ndarray) -> None:
        """Gives them the hidden states that the leader's arena has in `rows`."""
        if not self.exist:
            return
        self.tell(PutStates(states.keys, states.lengths, rows))
        try:
            broadcast_states(states, self._runner)
        except Exception as error:
            raise RankError(f"hidden states did not reach all ranks: {describe(error)}") from error

    def collect(self, batch: SharedBatch, wanted: tuple[str, ...], rows: np.ndarray) -> None:
        """Exchanges a batch of which each rank has a share; `wanted` goes into `rows`
        of all arenas, and all of it to others on the leader who want some."""
        number, whole = batch.own.batch, batch.completed is not None
        command = CollectStates(
            number, batch.keys, batch.lengths, batch.tokens, wanted, rows, whole
        )
        self.tell(command)
        try:
            packed = collect_states(command, batch.own, self._runner)
            if batch.completed is not None:
                assert packed is not None
                batch.completed(packed)
        except Exception as error:
            raise RankError(f"hidden states were not exchanged: {describe(error)}") from error
