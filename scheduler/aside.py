"""Beam searches that lack slots, and who may go before them meanwhile.

A search needs all its slots at once. If nothing else began until so many are free, one that needs
a whole step's would leave most of them empty for as long as the last running sequence takes. So it
steps aside, and requests behind it go on: as many sequences as it has itself. Then the line is
held, and slots gather for the search. So does one that has the slots but may not go before another
that stepped aside.

Some go before it and do not count: searches that stepped aside earlier, requests that were
preempted (they have been in the batch; such a search is the first aside), and those that are more
urgent. As in `FairQueue`, it rises by one number of priority every `aging_seconds`; so long as it
has not risen to them, urgent ones pass without end.
"""

from collections.abc import Callable
from dataclasses import dataclass

from antiphon.scheduler.request import Request

MOST = 8  # that step aside at once; behind so many, the line is held


@dataclass
class _Search:
    request: Request
    since: float  # seconds: when it began to rise
    left: int  # sequences that may still begin before it


class Aside:
    """In the order in which they go on: of arrival here, but preempted ones first."""

    def __init__(self, aging_seconds: float, clock: Callable[[], float]) -> None:
        self._aging_seconds, self._clock = aging_seconds, clock
        self._searches: dict[int, _Search] = {}  # by order of arrival of their request

    def __len__(self) -> int:
        return len(self._searches)

    def __contains__(self, request: Request) -> bool:
        return request.order in self._searches

    @property
    def requests(self) -> list[Request]:
        return [search.request for search in self._searches.values()]

    @property
    def is_full(self) -> bool:
        return len(self._searches) >= MOST

    def put(self, request: Request, since: float) -> None:
        """`since`: seconds; it rises from then on."""
        search = _Search(request, since, request.num_slots)
        searches = [*self._searches.values(), search]
        searches.sort(key=lambda one: not one.request.metrics.preemptions)
        self._searches = {one.request.order: one for one in searches}

    def discard(self, request: Request) -> None:
        self._searches.pop(request.order, None)

    def lets_pass(self, request: Request) -> bool:
        """Whether `request` may begin before those that stepped aside before it did."""
        return all(search.left >= request.num_slots for search in self._overtaken(request))

    def pass_by(self, request: Request) -> None:
        """`request` begins, which may."""
        if not self._searches:
            return
        for search in self._overtaken(request):
            search.left -= request.num_slots
        self.discard(request)

    def _overtaken(self, request: Request) -> list[_Search]:
        """Those that came before `request`, but for less urgent ones."""
        overtaken: list[_Search] = []
        if not self._searches or request.metrics.preemptions:
            return overtaken
        for search in self._searches.values():
            if search.request is request:
                break
            if not self._is_less_urgent(search, request):
                overtaken.append(search)
        return overtaken

    def _is_less_urgent(self, search: _Search, request: Request) -> bool:
        numbers = search.request.priority - request.priority
        if numbers <= 0:
            return False
        return self._clock() - search.since < numbers * self._aging_seconds
