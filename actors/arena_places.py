"""Where encoders in other processes may write hidden states: the decoder's side."""

import logging
import math
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from antiphon.actors.address import Address
from antiphon.actors.links import Links
from antiphon.actors.member_messages import Member
from antiphon.actors.messages import NotMapped, StatesWritten
from antiphon.actors.rank_channel import RankAddress
from antiphon.config.worker_options import StateTransport
from antiphon.kv.arena import StateArena
from antiphon.kv.arena_rows import ArenaRows
from antiphon.kv.handoff import Place
from antiphon.kv.sharing import share
from antiphon.kv.transports.mapped import ArenaExport
from antiphon.scheduler.request import Incarnation, Media

logger = logging.getLogger(__name__)

ASK_AGAIN_SECONDS = 5.0  # a message may have been lost
GRACE_SECONDS = 1.0  # a GPU may finish what a process that is gone had queued there


class ArenaPlaces:
    """For the thread of a decoder worker. `clock`: seconds, never set back."""

    def __init__(
        self,
        space: ArenaRows,
        export: ArenaExport | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`export`: None where no encoder may write into the arena."""
        self.export = export
        self._space, self._clock = space, clock
        self._cannot: set[Incarnation] = set()  # encoders that write nothing new into the arena
        self._ended: list[tuple[float, Incarnation]] = []  # lives that are gone; when it is certain
        self._known_gone: dict[str, int] = {}  # by encoder
        self.num_quarantined = 0  # rows that writes of those in `_cannot` may still reach
        self._next_asking = -math.inf

    # ------------------------------------------------------------------ asking

    def may_write(self, is_near: bool) -> bool:
        """Whether an encoder in another process can, by all that is known."""
        export = self.export
        return export is not None and (is_near or bool(export.far))

    def place(self, media: Media, encoder: Incarnation) -> Place | None:
        """Where `encoder`, which may write, is to put the states of `media`. None if it cannot,
        or if there is no such place now: they go another way then."""
        if self.export is None or encoder in self._cannot:
            return None
        reserved = self._space.reserve(media.key, media.num_tokens, encoder)
        return None if reserved is None else Place(self.export.name, *reserved)

    def tickets(self, keys: Sequence[str], encoder: Incarnation) -> tuple[int, ...]:
        """Of the places that `encoder` was last asked to write: what confirms them frees them."""
        return tuple(self._space.ticket(key, encoder) for key in keys)

    def late(self) -> list[tuple[Incarnation, tuple[str, ...]]]:
        """Encoders, and keys whose places they may still write though nobody wants them: they are
        to be withdrawn now, perhaps once more."""
        now = self._clock()
        self._end_writers(now)
        if not self._space.num_blocked or now < self._next_asking:
            return []
        self._next_asking = now + ASK_AGAIN_SECONDS
        keys: dict[Incarnation, list[str]] = {}
        for blocked in self._space.blocked():
            keys.setdefault(Incarnation(*blocked.writer), []).append(blocked.key)
        return [(encoder, tuple(of_it)) for encoder, of_it in keys.items()]

    # ------------------------------------------------------------------ answers

    def written(self, message: StatesWritten) -> list[str]:
        """The keys whose states are where they belong."""
        return self.answered(message.keys, message.tickets, message.sender, message.arena)

    def answered(
        self,
        keys: Sequence[str],
        tickets: Sequence[int],
        sender: Incarnation | None,
        arena: str,
    ) -> list[str]:
        """`sender` will write nothing more for these tickets of the arena of this name. Returns the
        keys that it was asked to write. None where that is not the one here: an earlier life of
        this decoder had it."""
        if sender is None or not self._is_here(arena):
            return []
        pairs = zip(keys, tickets, strict=False)
        own = [key for key, ticket in pairs if self._space.answered(key, sender, ticket)]
        if sender in self._cannot:
            self._count_quarantined()
        return own

    def _is_here(self, arena: str) -> bool:
        """Whether the arena here has this name."""
        return self.export is not None and arena == self.export.name

    def not_mapped(self, message: NotMapped) -> None:
        """Rows that a write may still reach stay with their keys until `sender` says once more that
        none does, or its process is gone."""
        if not self._is_here(message.arena):
            return
        sender = message.sender
        logger.warning("hidden states of %s come by way of the host: %s", sender, message.reason)
        self._cannot.add(sender)
        self._space.end_writes(sender, message.landing)
        self._count_quarantined()

    # ------------------------------------------------------------------ ends of encoders

    def note(self, members: Iterable[Member]) -> None:
        """What the supervisor says: processes that are gone write nothing any more."""
        if self.export is None:
            return
        now = self._clock()
        gone = {member.name: member.gone for member in members if member.role == "encoder"}
        gone |= {name: sys.maxsize for name in self._known_gone if name not in gone}
        for name, epoch in gone.items():
            if epoch > self._known_gone.get(name, 0):
                self._ended.append((now + GRACE_SECONDS, Incarnation(name, epoch)))
        self._known_gone = gone

    def _end_writers(self, now: float) -> None:
        while self._ended and self._ended[0][0] <= now:
            _, life = self._ended.pop(0)
            self._space.end_writers(*life)
            self._count_quarantined()

    @property
    def counters(self) -> dict[str, int]:
        """For people: rows in quarantine, where writes can be given up. From any thread."""
        by_nixl = self.export is not None and self.export.far
        return {"quarantined_hidden_states": self.num_quarantined} if by_nixl else {}

    def _count_quarantined(self) -> None:
        self.num_quarantined = self._space.num_written(self._cannot)


def export_arena(
    arena: StateArena,
    links: Links,
    followers: Sequence[Address],
    transport: StateTransport = "auto",
) -> ArenaExport | None:
    """What encoders in other processes are told of the arenas of all ranks: this process has one,
    and `followers` the others. None where there are no such encoders; and, with a line in the log,
    where the arenas cannot be shared or not reached. Raises ConfigurationError as `share` does."""
    if not links.node or links.here("encoder"):
        return None
    of_others = [rank.arena if isinstance(rank, RankAddress) else None for rank in followers]
    handles = [share(arena, transport), *of_others]
    ranks = tuple(handle for handle in handles if handle is not None)
    num_rows, width = arena.states.shape
    dtype = str(arena.states.dtype).removeprefix("torch.")
    export = ArenaExport(secrets.token_hex(8), ranks, num_rows, width, dtype)
    is_reached = bool(export.far) or all(rank.node == links.node for rank in followers)
    if not is_reached:
        logger.warning("hidden states come by way of the host: ranks are on several nodes")
    return export if is_reached and len(ranks) == len(handles) else None
