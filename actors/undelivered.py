"""What an encoder worker keeps for decoders that it does not know yet."""

import logging
from collections import deque

from antiphon.actors.links import Links
from antiphon.actors.messages import EncoderAnswer
from antiphon.kv.handoff import HiddenStates

logger = logging.getLogger(__name__)

KEPT_SECONDS = 10.0  # for news of a new decoder to arrive; after that it is taken for gone
MAX_BATCHES = 4  # of hidden states, which hold the device's memory


class Undelivered:
    """Answers to decoders without an address, oldest first.

    A decoder has none before the encoder has heard of it, and after its death. What is dropped is
    logged: the decoder, if it lives, asks again some seconds later.
    """

    def __init__(self) -> None:
        self._kept: deque[tuple[float, str, EncoderAnswer]] = deque()  # with the time of each

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, decoder: str, message: EncoderAnswer, now: float) -> None:
        """Keeps `message`. Drops the oldest hidden states if there are too many."""
        self._kept.append((now, decoder, message))
        batches = [kept for kept in self._kept if isinstance(kept[2], HiddenStates)]
        if len(batches) > MAX_BATCHES:
            self._kept = deque(kept for kept in self._kept if kept is not batches[0])
            _tell_dropped(batches[0][1], f"more than {MAX_BATCHES} batches wait")

    def due(self, links: Links, now: float) -> list[tuple[str, EncoderAnswer]]:
        """Removes and returns those whose decoder is known now, and drops those kept for too
        long."""
        if not self._kept:
            return []
        kept, self._kept = self._kept, deque()
        due: list[tuple[str, EncoderAnswer]] = []
        for since, decoder, message in kept:
            if links.peer(decoder) is not None:
                due.append((decoder, message))
            elif now - since <= KEPT_SECONDS:
                self._kept.append((since, decoder, message))
            else:
                _tell_dropped(decoder, f"it was not heard of for {KEPT_SECONDS:g} s")
        return due


def _tell_dropped(decoder: str, reason: str) -> None:
    logger.warning("an answer to %s is dropped: %s", decoder, reason)
