"""Hidden states on their way from encoders into the arenas of a decoder replica."""

import logging
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from antiphon.config.errors import describe
from antiphon.decoder.other_ranks import OtherRanks
from antiphon.decoder.rank_commands import AdoptStates, DropStates
from antiphon.decoder.runner import DecoderRunner
from antiphon.kv.batch_share import SharedBatch
from antiphon.kv.handoff import HiddenStates
from antiphon.scheduler.scheduler import Scheduler

logger = logging.getLogger(__name__)


class IncomingStates:
    """The leader's arena, and its scheduler. `catch_up` launches what the other ranks
    were told to launch: what follows may wait for them."""

    def __init__(
        self,
        runner: DecoderRunner,
        scheduler: Scheduler,
        others: OtherRanks,
        catch_up: Callable[[], None],
    ) -> None:
        self._runner, self._scheduler = runner, scheduler
        self._others, self._catch_up = others, catch_up
        self._received: deque[HiddenStates | SharedBatch] = deque()  # maybe still being computed

    def __len__(self) -> int:
        """Batches that have been received and may not be computed."""
        return len(self._received)

    # ------------------------------------------------------------------ room

    def make_room(self) -> None:
        """Drops hidden states that no request waits for any more."""
        if keys := self._scheduler.encodes.pop_unwanted():
            self._drop(tuple(keys))
        self._scheduler.encodes.blocked = self._runner.arena.space.num_blocked

    def _drop(self, keys: tuple[str, ...]) -> None:
        self._catch_up()
        self._others.tell(DropStates(keys))
        for key in keys:
            self._runner.arena.drop(key)

    # ------------------------------------------------------------------ states

    def receive(self, states: HiddenStates | SharedBatch) -> None:
        """As `DecoderReplica.receive_hidden`."""
        self._received.append(states)

    def accept(self, rests: bool) -> None:
        """Puts hidden states that are computed into the arena.

        A replica that `rests` accepts one input whose encoder is still running: its
        first step can be queued behind the encoder on the device. A busy replica does
        not, since running sequences and later arrivals must not wait for an encoder.
        """
        while self._received and (
            self._received[0].computed or (rests and len(self._received[0].keys) == 1)
        ):
            arrived = self._received.popleft()
            if isinstance(arrived, SharedBatch):
                self._collect(arrived)
                continue
            # Not those that come twice or too late: there is no room for them.
            states = arrived.only(self._scheduler.encodes.expects)
            if not states.keys:
                continue
            self._catch_up()
            try:
                rows = self._runner.arena.put(states)
            except Exception as error:
                self._refuse(states.keys, error)
            else:
                self._others.share(states, rows)
                self._arrived(states.keys)

    def _collect(self, batch: SharedBatch) -> None:
        """Takes in what is wanted of a batch of which each rank has a share. The ranks exchange
        it in any case: else the next one would be taken for it."""
        wanted = tuple(filter(self._scheduler.encodes.expects, batch.keys))
        if wanted or batch.completed is not None:
            self._catch_up()
        lengths = dict(zip(batch.keys, batch.lengths, strict=True))
        try:
            rows = self._runner.arena.take(wanted, [lengths[key] for key in wanted])
        except Exception as error:
            self._refuse(wanted, error)
            wanted, rows = (), self._runner.arena.take((), ())
        self._others.collect(batch, wanted, rows)
        self._arrived(wanted)

    def adopt(self, keys: Sequence[str]) -> None:
        """An encoder has written the states of `keys` into the rows that they have in
        the arenas of all ranks."""
        arena, expects = self._runner.arena, self._scheduler.encodes.expects
        keys = tuple(key for key in keys if expects(key) and key in arena.space)
        if not keys:
            return
        rows = [arena.space.of(key) for key in keys]
        self._others.tell(AdoptStates(keys, tuple(map(len, rows)), np.concatenate(rows)))
        arena.adopt(keys, rows)
        self._scheduler.counters["states_in_place"] += len(keys)
        self._arrived(keys)

    def _arrived(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._scheduler.encoded(key, self._runner.arena.space.is_written(key))

    def _refuse(self, keys: tuple[str, ...], error: Exception) -> None:
        """Fails the requests that wait for the states of `keys`. Raises the device's
        error if it is of no more use."""
        logger.exception("hidden states of %d inputs could not be taken in", len(keys))
        message = f"its hidden states could not be taken in: {describe(error)}"
        self._drop(keys)
        for key in keys:
            self._scheduler.encode_failed(key, message)
        self._runner.probe()
