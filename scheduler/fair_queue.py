"""The order in which waiting requests get on: by priority, and fairly among callers.

**Priorities.** Requests of one priority number form a level; a lower number goes first.
A level in which requests wait, and from which none was taken, rises by one number every
`aging_seconds`. So under a load of urgent requests, at least one of a level that lies n
numbers lower gets on every n * aging_seconds: none waits for ever, and urgent ones
hardly notice.

**Callers.** A caller is one call of a program: the windows of a recording, or the
prompts of a list, have one in common. Callers of a level share it by tokens, as flows
share a line in fair queueing (Demers, Keshav and Shenker, 1989). Each take advances its
caller's clock by the tokens of the request; next is the caller whose clock is least.
The level's clock advances as if all waiting callers were served at once, each at its
share. A caller that comes, or comes back, starts at the level's clock, or at its own if
that is ahead. So a short request waits behind one request of each other caller, not
behind hours of a recording; and who waits with much gets on even where new callers come
without end. The requests of one caller keep their order.

**Set aside.** A request whose turn it is, and which cannot get on yet, may be set aside.
Its caller pays at once, so that it is another's turn. It counts as taken when it gets on;
if it never does, its caller is paid back.

Every operation costs O(log n) for n waiting requests, and O(number of levels).
"""

import heapq
import math
from collections.abc import Callable

from antiphon.scheduler.queues import OpenQueue
from antiphon.scheduler.request import Request

CallerKey = tuple[str, int]  # frontend, and its number for the caller
# A caller's clock, in tokens; of equal ones, who waited longest since a take goes first: the count
# of takes at its last one, then the arrival of its request.
Turn = tuple[float, int, int]


class _Caller:
    """The waiting requests of one caller, by arrival."""

    def __init__(self, clock: float) -> None:
        self.clock = clock  # of its next request, in tokens
        self.taken = 0  # takes of the level at its last one
        self.turn: Turn = (clock, 0, 0)  # its only valid entry in the level's heap
        self.requests: OpenQueue[tuple[int], Request] = OpenQueue()


class _Level:
    """The waiting requests of one priority."""

    def __init__(self, since: float) -> None:
        self.since = since  # when it was last empty, or a request was last taken; in seconds
        self.count = 0
        self._clock, self._takes = 0.0, 0
        self._callers: dict[CallerKey, _Caller] = {}  # those that wait
        self._turns: list[tuple[Turn, CallerKey]] = []
        self._ahead: dict[CallerKey, float] = {}  # clocks of callers that left, while ahead of ours
        self._returns: list[tuple[float, CallerKey]] = []  # when these may be forgotten

    def push(self, request: Request) -> None:
        key = caller_key(request)
        caller = self._callers.get(key)
        if caller is None:
            clock = max(self._clock, self._ahead.pop(key, 0.0))
            caller = self._callers[key] = _Caller(clock)
            self._set_turn(key, caller, request.order)
        caller.requests.push((request.order,), request)
        self.count += 1

    def first(self) -> Request:
        """Of a level that is not empty."""
        while True:
            turn, key = self._turns[0]
            caller = self._callers.get(key)
            if caller is not None and caller.turn == turn:
                request = caller.requests.first()
                assert request is not None
                return request
            heapq.heappop(self._turns)

    def take(self, request: Request) -> None:
        """Removes `request`, which gets on."""
        start = self._callers[caller_key(request)].clock
        self._clock = max(self._clock + request.cost / len(self._callers), start)
        self.remove(request, pays=True)
        self._forget_passed()

    def get_on(self, request: Request) -> None:
        """`request`, which was removed and paid for, gets on."""
        self._clock += request.cost / max(len(self._callers), 1)
        self._forget_passed()

    def pay_back(self, request: Request) -> None:
        """What its caller paid for `request`, as far as that is still ahead of the level."""
        key = caller_key(request)
        caller = self._callers.get(key)
        if caller is None:
            if key in self._ahead:
                self._set_ahead(key, self._ahead.pop(key) - request.cost)
        elif caller.clock > self._clock:
            caller.clock = max(self._clock, caller.clock - request.cost)
            first = caller.requests.first()
            assert first is not None
            self._set_turn(key, caller, first.order)

    def remove(self, request: Request, pays: bool) -> None:
        key = caller_key(request)
        caller = self._callers[key]
        caller.requests.discard((request.order,))
        self.count -= 1
        if pays:
            self._takes += 1
            caller.clock += request.cost
            caller.taken = self._takes
        if not len(caller.requests):
            del self._callers[key]
            self._set_ahead(key, caller.clock)
        elif pays:
            self._set_turn(key, caller, request.order)
        if len(self._turns) > 2 * len(self._callers) + 16:
            self._turns = [(caller.turn, key) for key, caller in self._callers.items()]
            heapq.heapify(self._turns)

    def _set_turn(self, key: CallerKey, caller: _Caller, order: int) -> None:
        caller.turn = (caller.clock, caller.taken, order)
        heapq.heappush(self._turns, (caller.turn, key))

    def _set_ahead(self, key: CallerKey, clock: float) -> None:
        if clock > self._clock:
            self._ahead[key] = clock
            heapq.heappush(self._returns, (clock, key))

    def _forget_passed(self) -> None:
        """Callers that left, and would now start with all others."""
        while self._returns and self._returns[0][0] <= self._clock:
            clock, key = heapq.heappop(self._returns)
            if self._ahead.get(key) == clock:
                del self._ahead[key]


class FairQueue:
    """Waiting requests. `aging_seconds`: see above; `clock`: seconds, never set back."""

    def __init__(self, aging_seconds: float, clock: Callable[[], float]) -> None:
        self._aging_seconds, self._clock = aging_seconds, clock
        self._levels: dict[int, _Level] = {}  # those that are not empty
        self._level_of: dict[int, int] = {}  # priority by order of arrival
        self._set_aside: dict[int, _Level] = {}  # by order of arrival

    def __len__(self) -> int:
        return len(self._level_of)

    def __contains__(self, request: Request) -> bool:
        """Whether it waits here, in the queue or set aside."""
        return request.order in self._level_of or request.order in self._set_aside

    def push(self, request: Request) -> None:
        """Adds `request`, which is not in the queue."""
        level = self._levels.get(request.priority)
        if level is None:
            level = self._levels[request.priority] = _Level(self._clock())
        level.push(request)
        self._level_of[request.order] = request.priority

    def first(self) -> Request | None:
        """The next request, which stays; None if the queue is empty."""
        if not self._levels:
            return None
        return self._levels[self._first_level()].first()

    def set_aside(self, request: Request) -> float:
        """Removes `request`, whose turn it is and which cannot get on yet: `take` or `discard` it
        later. Its caller pays. Returns since when its level has waited (seconds), which waits on.
        """
        level = self._levels[request.priority]
        level.remove(request, pays=True)
        self._forget(request, level)
        self._set_aside[request.order] = level
        return level.since

    def take(self, request: Request) -> None:
        """Removes `request`, which gets on: its caller pays for it, unless it has."""
        level = self._set_aside.pop(request.order, None)
        if level is not None:
            level.get_on(request)
        else:
            level = self._levels[request.priority]
            level.take(request)
            self._forget(request, level)
        level.since = self._clock()

    def discard(self, request: Request) -> None:
        """Removes `request` if it is here."""
        if (level := self._set_aside.pop(request.order, None)) is not None:
            level.pay_back(request)
        elif request.order in self._level_of:
            level = self._levels[request.priority]
            level.remove(request, pays=False)
            self._forget(request, level)

    def _first_level(self) -> int:
        if len(self._levels) == 1:
            (priority,) = self._levels
            return priority
        return min(self._levels, key=self._rank)

    def _rank(self, priority: int) -> tuple[float, int]:
        """The level with the least rank is next. Waiting does not change the order of
        two ranks, as all levels age alike."""
        if math.isinf(self._aging_seconds):
            return float(priority), priority
        return self._levels[priority].since + priority * self._aging_seconds, priority

    def _forget(self, request: Request, level: _Level) -> None:
        """`request` is no longer in `level`."""
        del self._level_of[request.order]
        if not level.count:
            del self._levels[request.priority]


def caller_key(request: Request) -> CallerKey:
    """Callers are numbered by their frontends."""
    return request.id.frontend, request.caller
