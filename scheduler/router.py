"""Chooses an encoder worker and a decoder replica for each request.

The least loaded pair, unless another one already has the request's media.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

REMEMBERED_MEDIA = 65_536


class Route(NamedTuple):
    """Names of the workers that a request goes through."""

    encoder: str
    decoder: str


class Router:
    """A worker's load is the number of encoder tokens of its open requests.

    A request goes where its media was last sent, unless that decoder has over `imbalance_tokens`
    more load than the least loaded one.
    """

    def __init__(
        self, encoders: Iterable[str], decoders: Iterable[str], imbalance_tokens: int = 65_536
    ) -> None:
        self.encoder_load = dict.fromkeys(encoders, 0)
        self.decoder_load = dict.fromkeys(decoders, 0)
        self.imbalance_tokens = imbalance_tokens
        self._last_route: OrderedDict[str, Route] = OrderedDict()  # by media key

    def route(self, key: str, num_tokens: int) -> Route:
        """Adds a request's load to its route. `release` removes it when the request ends."""
        route = self._last_route.get(key)
        if route is None or self._overloaded(route.decoder):
            route = Route(_least(self.encoder_load), _least(self.decoder_load))
        self._remember(key, route)
        self.encoder_load[route.encoder] += num_tokens
        self.decoder_load[route.decoder] += num_tokens
        return route

    def release(self, route: Route, num_tokens: int) -> None:
        self.encoder_load[route.encoder] -= num_tokens
        self.decoder_load[route.decoder] -= num_tokens

    def _overloaded(self, decoder: str) -> bool:
        least = min(self.decoder_load.values())
        return self.decoder_load[decoder] - least > self.imbalance_tokens

    def _remember(self, key: str, route: Route) -> None:
        self._last_route[key] = route
        self._last_route.move_to_end(key)
        if len(self._last_route) > REMEMBERED_MEDIA:
            self._last_route.popitem(last=False)


def _least(loads: dict[str, int]) -> str:
    """The worker with the smallest load; the first of equal ones."""
    return min(loads, key=loads.__getitem__)
