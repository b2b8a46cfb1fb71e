"""Hidden states that lie in the arena for whoever asks for them next."""

from collections import OrderedDict


class KeptStates:
    """Their keys, the one that was used longest ago first. `room`: tokens in the arena,
    of these and of open work."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tokens = 0
        self._tokens_of: OrderedDict[str, int] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._tokens_of

    def __len__(self) -> int:
        return len(self._tokens_of)

    def add(self, key: str, num_tokens: int) -> None:
        """Those of `key` are not needed now. They take no more room than they did."""
        self._tokens_of[key] = num_tokens
        self.tokens += num_tokens

    def pop(self, key: str) -> int:
        """Those of `key` are needed again, or are unusable. Their tokens; 0 if they are
        not here."""
        num_tokens = self._tokens_of.pop(key, 0)
        self.tokens -= num_tokens
        return num_tokens

    def make_room(self, needed: int) -> list[str]:
        """Gives up keys until `needed` tokens have room beside the others. Returns the keys."""
        given_up: list[str] = []
        while self._tokens_of and self.tokens + needed > self.room:
            key, num_tokens = self._tokens_of.popitem(last=False)
            self.tokens -= num_tokens
            given_up.append(key)
        return given_up
