"""Picks an encoder worker and a decoder replica for each request: least load, and affinity to where its media already is."""

from collections import OrderedDict

REMEMBERED_MEDIA = 65_536


class Router:
    """Loads are encoder tokens under way. Affinity yields when its replica is far busier than the idlest one."""

    def __init__(
        self, num_encoders: int, num_decoders: int, imbalance_tokens: int = 65_536
    ) -> None:
        self.encoder_load = [0] * num_encoders
        self.decoder_load = [0] * num_decoders
        self.imbalance_tokens = imbalance_tokens
        self._home: OrderedDict[str, tuple[int, int]] = (
            OrderedDict()
        )  # media key -> (encoder, decoder)

    def route(self, key: str, num_tokens: int) -> tuple[int, int]:
        """(encoder, decoder) for one request; `done` must be told when it has ended."""
        idlest = min(range(len(self.decoder_load)), key=self.decoder_load.__getitem__)
        encoder, decoder = self._home.get(key, (-1, idlest))
        if self.decoder_load[decoder] - self.decoder_load[idlest] > self.imbalance_tokens:
            encoder, decoder = -1, idlest
        if encoder < 0:
            encoder = min(range(len(self.encoder_load)), key=self.encoder_load.__getitem__)
        self._remember(key, (encoder, decoder))
        self.encoder_load[encoder] += num_tokens
        self.decoder_load[decoder] += num_tokens
        return encoder, decoder

    def done(self, place: tuple[int, int], num_tokens: int) -> None:
        encoder, decoder = place
        self.encoder_load[encoder] -= num_tokens
        self.decoder_load[decoder] -= num_tokens

    def _remember(self, key: str, place: tuple[int, int]) -> None:
        self._home[key] = place
        self._home.move_to_end(key)
        if len(self._home) > REMEMBERED_MEDIA:
            self._home.popitem(last=False)
