"""The encoder inputs of open requests, for the encoders that need them."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class _Kept:
    """An input, the numbers of its open requests, and the encoders that it was sent to."""

    array: np.ndarray
    users: set[int] = field(default_factory=set)
    sent_to: dict[str, None] = field(default_factory=dict)  # in this order


class KeptInputs:
    """Inputs by content key, each while an open request uses it. Arrays are not copied."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._bytes_sent: dict[str, int] = {}  # of kept inputs, by encoder

    def __len__(self) -> int:
        return len(self._kept)

    def use(self, key: str, array: np.ndarray, user: int) -> None:
        """Request number `user` may need the input encoded. Equal content is kept once."""
        self._kept.setdefault(key, _Kept(array)).users.add(user)

    def get(self, key: str) -> np.ndarray | None:
        """None if no open request uses it."""
        kept = self._kept.get(key)
        return None if kept is None else kept.array

    def bytes_sent(self, encoder: str) -> int:
        """Of inputs that are kept."""
        return self._bytes_sent.get(encoder, 0)

    def sent_to(self, key: str) -> list[str]:
        """The encoders that it was sent to, the first one first."""
        return list(self._kept[key].sent_to) if key in self._kept else []

    def note_sent(self, key: str, encoder: str) -> None:
        """The input is on its way to `encoder`."""
        kept = self._kept[key]
        if encoder not in kept.sent_to:
            kept.sent_to[encoder] = None
            self._bytes_sent[encoder] = self.bytes_sent(encoder) + kept.array.nbytes

    def release(self, key: str, user: int) -> list[str]:
        """Request number `user` needs the input no longer. If it was the last one, the input goes:
        returns the encoders that it was sent to."""
        kept = self._kept.get(key)
        if kept is None or user not in kept.users:
            return []
        kept.users.remove(user)
        if kept.users:
            return []
        del self._kept[key]
        for encoder in kept.sent_to:
            self._bytes_sent[encoder] -= kept.array.nbytes
        return list(kept.sent_to)
