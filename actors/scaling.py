"""How many workers of a role an engine should have, by how much work waits for them."""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from antiphon.actors.membership import Membership
from antiphon.config.errors import ConfigurationError

logger = logging.getLogger(__name__)

GROW_SECONDS = 2.0  # more work than the workers can hold for so long: more workers
SHRINK_SECONDS = 60.0  # so long nearly nothing to do: one worker fewer
SPARE = 0.5  # one fewer must have at most this share of what it can hold


@dataclass(frozen=True)
class Bounds:
    """Fewest and most workers of a role."""

    least: int
    most: int

    @property
    def fixed(self) -> bool:
        return self.least == self.most

    def clamp(self, count: int) -> int:
        return min(max(count, self.least), self.most)


def demand(loads: Iterable[Mapping[str, float]]) -> float:
    """The work of all members in units of what one can hold, from the loads in their heartbeats:
    `open` requests (or tokens to encode) out of `capacity`."""
    return sum(load["open"] / load["capacity"] for load in loads if load.get("capacity"))


def check_scale(role: str, count: int, roles: Iterable[str]) -> None:
    """Raises ConfigurationError unless there can be `count` workers of `role`."""
    if role not in (known := list(roles)):
        raise ConfigurationError(f"there are no workers of role {role!r}: {', '.join(known)}")
    if count < 1:
        raise ConfigurationError(f"at least 1 worker of each role must stay, not {count}")


class Autoscaler:
    """Of one role. Grows in one go, shrinks by one worker at a time; both only after the need has
    lasted, so that a burst of seconds starts nobody."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._short_since: float | None = None
        self._idle_since: float | None = None

    def wanted(self, work: float, current: int, now: float) -> int:
        """The number of workers that there should be. `work`: see `demand`. Called regularly."""
        fits = work <= current
        idle = current > self.bounds.least and work <= (current - 1) * SPARE
        self._short_since = None if fits else self._short_since or now
        self._idle_since = (self._idle_since or now) if idle else None
        count = current
        if self._short_since is not None and now - self._short_since >= GROW_SECONDS:
            count, self._short_since = math.ceil(work), None
        elif self._idle_since is not None and now - self._idle_since >= SHRINK_SECONDS:
            count, self._idle_since = current - 1, None
        return self.bounds.clamp(count)


class Pools:
    """The roles whose number of workers changes by itself.

    A pool does not replace a worker that was given up: what made every start fail would make that
    of another one fail too, for ever. After ten minutes (`WINDOW_SECONDS`), when deaths are
    forgiven, it starts one again where one is needed; if that one fails as well, it is given up at
    once, for ten minutes more. So a cause that passes is noticed, and one that lasts costs little.
    """

    def __init__(self, bounds: Mapping[str, Bounds]) -> None:
        self._scalers = {role: Autoscaler(bounds) for role, bounds in bounds.items()}

    def adjust(self, membership: Membership, now: float) -> None:
        """Called regularly."""
        for role, scaler in self._scalers.items():
            members = membership.of_role(role)
            wanted = scaler.wanted(demand(member.load for member in members), len(members), now)
            if wanted > len(members) and membership.gave_up(role, now):
                continue
            if wanted != len(members):
                logger.info("%d %s workers instead of %d", wanted, role, len(members))
                membership.scale(role, wanted, now)
