"""The ways of hidden states from one encoder worker to its decoders."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import torch

from antiphon.actors.encoder_batch import EncoderBatch
from antiphon.actors.links import Links
from antiphon.actors.member_messages import Member
from antiphon.actors.messages import Encode, EncodeJob, EncoderAnswer, NotMapped, StatesWritten
from antiphon.config.errors import describe
from antiphon.kv.handoff import HiddenStates, Place
from antiphon.kv.transports import transport_to
from antiphon.kv.transports.interface import Transport
from antiphon.kv.transports.mapped import ArenaExport, Mapped, MappedArena
from antiphon.kv.transports.mapping import MappingError
from antiphon.kv.transports.nixl import Nixl
from antiphon.scheduler.request import Incarnation

logger = logging.getLogger(__name__)


class Outlets:
    """For the thread of the worker `incarnation`. `answer` sends to a decoder, and does not block.
    `completed` takes a batch whose shares were exchanged, to be queued here; in another thread."""

    def __init__(
        self,
        incarnation: Incarnation,
        device: torch.device,
        links: Links,
        answer: Callable[[str, EncoderAnswer], None],
        completed: Callable[[EncoderBatch], None],
    ) -> None:
        self._incarnation, self._device = incarnation, device
        self._links, self._answer, self._completed = links, answer, completed
        self._plain: dict[str, Transport] = {}  # by decoder or frontend
        self._mapped: dict[str, Mapped | Nixl] = {}  # by decoder
        self._refused: dict[str, str] = {}  # by decoder: an arena that could not be mapped
        # With their decoders, those by which nothing new is written; some of theirs may still land.
        self._given_up: list[tuple[str, Nixl]] = []
        self._num_shared = 0  # batches that ranks of the decoder beside this encoder share

    # ------------------------------------------------------------------ arenas

    def admit(self, message: Encode) -> list[EncodeJob]:
        """The jobs of a message; without their places where nothing can be written to them. The
        first message with an arena maps it."""
        jobs, arena = message.jobs, message.arena
        if not jobs or arena is None:
            return jobs
        if message.epoch == self._incarnation.epoch and self._map(jobs[0].decoder, arena):
            return jobs
        return [msgspec.structs.replace(job, place=None) for job in jobs]

    def _map(self, decoder: str, arena: ArenaExport) -> bool:
        mapped = self._mapped.get(decoder)
        if mapped is not None and mapped.name == arena.name:
            return True
        if self._refused.get(decoder) == arena.name or self.may_land(arena.name):
            return False
        if mapped is not None:
            self._unmap(decoder)  # that of an earlier life, which has ended
        try:
            mapped = self._transport_into(arena, decoder)
        except MappingError as error:
            self._refuse(decoder, arena.name, describe(error))
            return False
        logger.info("hidden states for %s go into its memory (%s)", decoder, mapped.kind)
        self._mapped[decoder] = mapped
        return True

    def _transport_into(self, arena: ArenaExport, decoder: str) -> Mapped | Nixl:
        """Raises MappingError."""
        written = partial(self._written, decoder, arena.name)
        if not arena.far:
            return Mapped(written, MappedArena(arena, self._device))
        return Nixl(arena, self._device, written, partial(self._unwritten, decoder))

    def _unwritten(self, decoder: str, nixl: Nixl, states: HiddenStates, reason: str) -> None:
        """What could not be written goes another way, and so does all that follows."""
        if self._mapped.get(decoder) is nixl:
            del self._mapped[decoder]
            self._given_up.append((decoder, nixl))
            self._refuse(decoder, nixl.name, reason, nixl.landing)
        another = transport_to(False, partial(self._answer, decoder), self._device)
        another.queued(states)
        another.computed()

    def _refuse(self, decoder: str, arena: str, reason: str, landing: tuple[str, ...] = ()) -> None:
        logger.warning("hidden states for %s go by way of the host: %s", decoder, reason)
        self._refused[decoder] = arena
        self._answer(decoder, NotMapped(arena, reason, self._incarnation, landing))

    def check(self) -> None:
        """Tells decoders that writes which were given up are over. Once a round of the loop."""
        for decoder, nixl in list(self._given_up):
            if nixl.check() and self._refused.get(decoder) == nixl.name:
                reason = "writes that were given up are over"
                self._answer(decoder, NotMapped(nixl.name, reason, self._incarnation, nixl.landing))
            if not nixl.is_open:
                self._given_up.remove((decoder, nixl))

    def may_land(self, arena: str) -> set[str]:
        """Keys whose states may still come into the arena of this name, though nothing new is
        written there."""
        return {key for _, nixl in self._given_up if nixl.name == arena for key in nixl.landing}

    def _written(
        self, decoder: str, arena: str, keys: tuple[str, ...], tickets: tuple[int, ...]
    ) -> None:
        self._answer(decoder, StatesWritten(arena, keys, tickets, self._incarnation))

    def unmap_gone(self, members: Sequence[Member]) -> None:
        """Lets go the arenas of decoders that have ended: only then is their memory free."""
        alive = {member.name for member in members if member.alive}
        for decoder in [name for name in self._mapped if name not in alive]:
            self._unmap(decoder)

    def _unmap(self, decoder: str) -> None:
        transport = self._mapped.pop(decoder)
        transport.close()
        if isinstance(transport, Nixl):
            self._given_up.append((decoder, transport))

    def close(self) -> None:
        """Unmaps all arenas, when the loop has ended."""
        for decoder in list(self._mapped):
            self._unmap(decoder)

    # ------------------------------------------------------------------ batches

    def queue(self, batch: EncoderBatch) -> list[Transport]:
        """Sends the hidden states of a batch to their decoders, now or once they are computed.
        Returns the transports that have to be told when they, and what this queues behind them, are
        so."""
        told: list[Transport] = []
        if batch.encoded.shares:
            self._share(batch)
            return told
        for decoder in batch.decoders:
            placed, others = self._divided(decoder, batch)
            if placed:
                places = [job.place for row in placed if (job := batch.jobs[row]).place is not None]
                self._mapped[decoder].queued(batch.states(placed), places)
                told.append(self._mapped[decoder])
            whole = [row for row in others if not batch.jobs[row].pooled]
            pooled = [row for row in others if batch.jobs[row].pooled]
            answers = [batch.states(whole)] if whole else []
            answers += [batch.embeddings(pooled)] if pooled else []
            for states in answers:
                told.append(self._plain_to(decoder))
                told[-1].queued(states)
        return told

    def _share(self, batch: EncoderBatch) -> None:
        """With the decoder beside this encoder, also what is for others only: all ranks exchange
        their shares when it says so."""
        (decoder,) = self._links.here("decoder")
        shared = batch.shared(self._num_shared, decoder, self._completed)
        self._links.local[decoder].send(shared)
        self._num_shared += 1

    def _divided(self, decoder: str, batch: EncoderBatch) -> tuple[list[int], list[int]]:
        """Numbers of the jobs for one decoder: those whose places are mapped, and all others."""
        jobs, lengths = batch.jobs, batch.encoded.lengths
        rows = [row for row, job in enumerate(jobs) if job.decoder == decoder]
        mapped = self._mapped.get(decoder)
        arena = None if mapped is None else mapped.name
        placed = [row for row in rows if _fits(jobs[row].place, arena, lengths[row])]
        return placed, [row for row in rows if row not in placed]

    def _plain_to(self, decoder: str) -> Transport:
        if decoder not in self._plain:
            # Now, as frontends leave without news of members: the ways to those that are gone go.
            ways = self._plain.items()
            self._plain = {name: way for name, way in ways if self._links.knows(name)}
            peer = self._links.peer(decoder)
            in_this_process = peer is not None and peer.in_this_process
            answer = partial(self._answer, decoder)
            self._plain[decoder] = transport_to(in_this_process, answer, self._device)
        return self._plain[decoder]


def _fits(place: Place | None, arena: str | None, length: int) -> bool:
    return place is not None and place.arena == arena and len(place.rows) == length
