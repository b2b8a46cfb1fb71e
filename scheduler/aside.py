"""Beam searches that lack slots, and who may go before them meanwhile.

A search needs all its slots at once. If nothing else began until so many are free, one that needs
a whole step's would leave most of them empty for as long as the last running sequence takes. So it
steps aside, and requests behind it go on: as many sequences as it has itself. Then the line is
held, and slots gather for the search: at most twice as many sequences as it
has must end before it begins.

Requests that are more urgent go before it in any case. As in `FairQueue`, one that waits rises by
one number of priority every `aging_seconds`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from antiphon.scheduler.request import Request

MOST = 8  # that step aside at once; behind so many, the line is held


@dataclass
class _Search:
    request: Request
    since: float  # seconds
    left: int  # sequences that may still begin before it


class Aside:
    """In order of arrival here, in which they go on."""

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

    def put(self, request: Request) -> None:
        self._searches[request.order] = _Search(request, self._clock(), request.num_slots)

    def discard(self, request: Request) -> None:
        self._searches.pop(request.order, None)

    def lets_pass(self, request: Request) -> bool:
        """Whether `request` may begin before those that stepped aside before it did."""
        return all(search.left >= request.num_slots for search in self._overtaken(request))

    def pass_by(self, request: Request) -> None:
        """`request` begins, which may."""
        for search in self._overtaken(request):
            search.left -= request.num_slots
        self.discard(request)

    def _overtaken(self, request: Request) -> list[_Search]:
        """Those that came before `request`, but for less urgent ones."""
        overtaken: list[_Search] = []
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
