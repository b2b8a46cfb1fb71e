"""Which workers an engine has, and what must be done about them: the supervisor's plain half.

A state machine without Ray, threads or a clock of its own. Events go in as method calls that carry
the time, actions come out of `take_actions`; `actors/supervisor.py` carries them out.

    starting --ready--> ready --drain--> draining
        |                 |                 |          died, silent, hung, failed, too slow
        +-----------------+-----------------+--> ending --gone--> waiting --delay--> starting
                                                    |                               (epoch + 1)
                                                    +--> removed  (drained, or given up)

A worker's name lives on across restarts, its epoch rises with each: what an earlier incarnation
still says changes nothing. A new incarnation starts only after the end of the last one was seen.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

from antiphon.actors.members import (
    LIVE,
    RUNNING,
    Action,
    Announce,
    Kill,
    Limits,
    Member,
    Start,
    State,
    Unusable,
)
from antiphon.scheduler.request import Incarnation
from antiphon.scheduler.worker_names import worker_name

logger = logging.getLogger(__name__)

WINDOW_SECONDS = 600.0  # restarts further back than this are forgiven
FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0  # before the second restart of a window, and the last ones
DRAIN_SECONDS = 30.0  # a draining worker's requests go elsewhere after this
QUIET_SECONDS = 1.0  # a draining worker ends after so long without a request
REMEDY = "raise startup_timeout, or free resources in the cluster"
PAUSE_SECONDS = 1.0  # after a longer pause between ticks it was the supervisor that stood still


class Membership:
    """The members of one engine, by name. All times are seconds of one monotonic clock."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.members: dict[str, Member] = {}
        self._removed: dict[str, Member] = {}
        self._given_up: dict[str, float] = {}  # when a worker last was, by role
        self.unusable: str | None = None  # why, once the engine can't go on
        self.complete = False  # whether all members have been ready at once
        self._actions: list[Action] = []
        self._last_epoch = 0  # of an earlier supervisor's life
        self._last_tick: float | None = None

    def take_actions(self) -> list[Action]:
        """What is to be done now, in this order; each action is returned once."""
        actions, self._actions = self._actions, []
        return actions

    def of_role(self, role: str) -> list[Member]:
        """The members of a role that stay."""
        return [
            member
            for member in self.members.values()
            if member.role == role and not member.removing
        ]

    def gave_up(self, role: str, now: float) -> bool:
        """True if a worker of a role was given up within `WINDOW_SECONDS`."""
        return now - self._given_up.get(role, -math.inf) < WINDOW_SECONDS

    # ------------------------------------------------------------------ what is wanted

    def scale(self, role: str, count: int, now: float) -> None:
        """Brings the members of a role to `count`: starts new ones, or drains the last ones."""
        if self.unusable is not None:
            return
        members = self.of_role(role)
        for member in members[count:]:
            self._drain(member, now)
        for _ in range(count - len(members)):
            self._start(self._new_member(role), now)

    def recover(self, members: Iterable[Member], last_epoch: int) -> None:
        """In the place of first starts, the members of an engine whose supervisor has died: those
        that run go on, the others start. `last_epoch`: new ones are above it."""
        self.members = {member.name: member for member in members}
        self._last_epoch, self.complete = last_epoch, True
        self._actions.append(Announce())

    def _new_member(self, role: str) -> Member:
        """Under the first free name. One that was used before keeps its epoch and its deaths."""
        number = 0
        while (name := worker_name(role, number)) in self.members:
            number += 1
        self.members[name] = member = self._removed.pop(name, None) or Member(name, role)
        member.removing = False
        return member

    def _drain(self, member: Member, now: float) -> None:
        member.removing = True
        member.starts = 0  # a start that was not waited for says nothing of the next one
        if member.state is State.READY:
            logger.info("%s is drained: it gets no new requests", member.name)
            member.enter(State.DRAINING, now)
            member.busy_at = now
            self._actions.append(Announce())
        elif member.state is State.STARTING:
            self._end(member, "it is not needed any more", now)
        elif member.state is State.WAITING:
            self._remove(member)

    def end(self, reason: str) -> None:
        """Ends all workers; nothing is started again."""
        if self.unusable is not None:
            return
        self.unusable = reason
        self._actions.append(Unusable(reason))
        for member in self.members.values():
            if member.state in LIVE:
                self._actions.append(Kill(member.incarnation, reason))
        self.members.clear()

    # ------------------------------------------------------------------ what workers report

    def ready(self, incarnation: Incarnation, address: Any, now: float) -> None:
        """It has loaded and takes messages at `address`."""
        member = self._current(incarnation, {State.STARTING})
        if member is None:
            return
        member.address, member.heard_at, member.starts = address, now, 0
        member.enter(State.READY, now)
        self.complete = self.complete or all(
            other.state is State.READY for other in self.members.values()
        )
        self._actions.append(Announce())

    def heartbeat(
        self,
        incarnation: Incarnation,
        load: Mapping[str, float],
        held: bytes,
        standstill: float,
        now: float,
    ) -> None:
        """`held`: a sketch of the content that it holds. `standstill`: seconds since its loop last
        came round."""
        member = self._current(incarnation, RUNNING)
        if member is None:
            return
        member.heard_at, member.load, member.held = now, load, held
        if load.get("open", 0):
            member.busy_at = now
        if standstill > self.limits.hang_timeout:
            self._end(member, f"its loop has stood still for {standstill:.1f} s", now)

    def failed(self, incarnation: Incarnation, reason: str, now: float) -> None:
        """It can't go on, though its process may still run."""
        if (member := self._current(incarnation, LIVE)) is not None:
            self._end(member, reason, now)

    def gone(self, incarnation: Incarnation, reason: str, now: float) -> None:
        """Its process has ended: by itself, or because it was killed."""
        member = self._current(incarnation, LIVE | {State.ENDING})
        if member is None:
            return
        was_expected = member.state is State.ENDING
        member.enter(State.ENDING, now)
        if not was_expected:
            self._count_death(member, reason, now)
        if self.unusable is None:
            self._answer(member, now)

    def is_starting(self, incarnation: Incarnation) -> bool:
        return self._current(incarnation, {State.STARTING}) is not None

    def _current(self, incarnation: Incarnation, states: Iterable[State]) -> Member | None:
        member = self.members.get(incarnation.name)
        if member is None or member.epoch != incarnation.epoch or member.state not in states:
            return None
        return member

    # ------------------------------------------------------------------ time

    def tick(self, now: float) -> None:
        """Acts on what has not happened in time. Called several times a second."""
        pause = now - (now if self._last_tick is None else self._last_tick)
        self._last_tick = now
        for member in list(self.members.values()):
            if pause > PAUSE_SECONDS:  # news waits in the inbox behind this call
                member.forgive(pause, now)
            if self.unusable is None:
                self._check(member, now)

    def _check(self, member: Member, now: float) -> None:
        limits = self.limits
        silence = now - member.heard_at
        if member.state is State.STARTING and now - member.since > limits.startup_timeout:
            self._end(
                member, f"it was not ready within {limits.startup_timeout:g} s: {REMEDY}", now
            )
        elif member.state in RUNNING and silence > limits.heartbeat_timeout:
            self._end(member, f"no sign of life for {silence:.1f} s", now)
        elif member.state is State.DRAINING and now - member.busy_at > QUIET_SECONDS:
            self._end(member, "it has no requests left", now)
        elif member.state is State.DRAINING and now - member.since > DRAIN_SECONDS:
            self._end(member, "its requests go elsewhere", now)
        elif member.state is State.WAITING and now >= member.restart_at:
            self._start(member, now)

    # ------------------------------------------------------------------ transitions

    def _start(self, member: Member, now: float) -> None:
        member.epoch = max(member.epoch, self._last_epoch) + 1
        member.starts += 1
        member.address, member.load, member.held = None, {}, b""
        member.enter(State.STARTING, now)
        self._actions.append(Start(member.incarnation, member.role))

    def _end(self, member: Member, reason: str, now: float) -> None:
        self._count_death(member, reason, now)
        if self.unusable is not None:  # the kill was among those of `end`
            return
        member.enter(State.ENDING, now)
        member.address = None
        self._actions += [Kill(member.incarnation, reason), Announce()]

    def _count_death(self, member: Member, reason: str, now: float) -> None:
        """Ends the engine where a restart makes no sense."""
        member.last_load = member.load
        if member.removing:  # this end was wanted
            return
        member.ended = reason
        member.deaths.append(now)
        while member.deaths[0] < now - WINDOW_SECONDS:
            member.deaths.popleft()
        sentence = f"{member.incarnation} ended: {reason}"
        logger.warning("%s", sentence)
        if not self.complete:
            self.end(sentence)
        elif too_often := self._too_often(member):
            member.removing = True
            self._given_up[member.role] = now
            sentence += f"; {too_often} (max_restarts={self.limits.max_restarts})"
            if not self.of_role(member.role):
                self.end(sentence)
            else:
                logger.error("%s: the engine goes on without it", sentence)

    def _too_often(self, member: Member) -> str:
        """Why no further start makes sense; "" if one does. Failed starts count however long each
        took: the window forgives deaths, and slow ones would go on for ever."""
        if len(member.deaths) > self.limits.max_restarts:
            minutes = WINDOW_SECONDS / 60
            return f"it was started {len(member.deaths)} times within {minutes:g} minutes"
        if member.starts > self.limits.max_restarts:
            return f"it was started {member.starts} times in a row without getting ready"
        return ""

    def _answer(self, member: Member, now: float) -> None:
        """After the end of its process: a restart, unless it was wanted or happened too often."""
        member.address = None
        self._actions.append(Announce())
        if member.removing:
            self._remove(member)
            return
        delay = restart_delay(len(member.deaths))
        member.enter(State.WAITING, now)
        member.restart_at = now + delay
        logger.info("%s starts again in %g s", member.name, delay)
        if not delay:
            self._start(member, now)

    def _remove(self, member: Member) -> None:
        self._removed[member.name] = self.members.pop(member.name)


def first_incarnations(roles: Mapping[str, int]) -> list[tuple[Incarnation, str]]:
    """What `scale` starts first for these numbers of members, with their roles."""
    return [
        (Incarnation(worker_name(role, number), 1), role)
        for role, count in roles.items()
        for number in range(count)
    ]


def restart_delay(deaths: int) -> float:
    """Seconds before the restart after the last of `deaths`: none at first, then doubling."""
    return 0.0 if deaths <= 1 else min(FIRST_DELAY * 2.0 ** (deaths - 2), LONGEST_DELAY)
