"""Which rows of an arena belong to which key, and who may write them.

    reserve     an encoder of another process may write the states of a key into its rows, once
    answered    it has done so, or never will
    drop        the key is not wanted any more

Other processes write without asking this one's device, so that rows need more than an owner:

- Dropped rows that an encoder may still write stay with their key, *blocked*, until it has answered
  or its process is gone. Whoever writes them meanwhile writes the states of that key, and a new
  request for the key gets the same rows.
- Free rows that queued steps may still read are not reserved before those are done. The decoder
  itself may fill them at once: what it queues comes behind those steps.
"""

from collections import deque
from collections.abc import Collection, Iterator, Set
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

Writer = tuple[str, int]  # one life of an encoder: its name and epoch


class Reservation(NamedTuple):
    """`rows` [tokens] int64. `ticket`: rises with each reservation."""

    ticket: int
    rows: np.ndarray


class Blocked(NamedTuple):
    """Rows of `key` that nobody wants, and that `writer` was last asked for by `ticket`."""

    key: str
    writer: Writer
    ticket: int


@dataclass
class _Owned:
    """`used`: the last step that reads or writes the rows. `writers`: the last ticket of each."""

    rows: np.ndarray
    used: int = 0
    writers: dict[Writer, int] = field(default_factory=dict)


class ArenaRows:
    """Rows 0 .. `num_rows`: each is free or belongs to one key.

    Steps are numbered in the order in which they are launched. `launched`: the last one.
    """

    def __init__(self, num_rows: int) -> None:
        self.launched = 0
        self._settled = 0
        self._free = np.arange(num_rows)[::-1].copy()  # a stack; low rows first
        self._num_free = num_rows
        self._cooling: deque[tuple[int, np.ndarray]] = deque()  # free; the last step that uses them
        self._num_cooling = 0  # rows of these
        self._owned: dict[str, _Owned] = {}
        self._blocked: set[str] = set()  # those of them that are not wanted
        self._tickets = 0

    @property
    def num_free(self) -> int:
        """Rows without a key."""
        return self._num_free + self._num_cooling

    @property
    def num_blocked(self) -> int:
        """Rows of keys that are not wanted."""
        return sum([len(self._owned[key].rows) for key in self._blocked]) if self._blocked else 0

    def blocked(self) -> Iterator[Blocked]:
        for key in self._blocked:
            for writer, ticket in self._owned[key].writers.items():
                yield Blocked(key, writer, ticket)

    def free(self) -> np.ndarray:
        """All rows without a key."""
        return np.concatenate([self._free[: self._num_free], *(rows for _, rows in self._cooling)])

    # ------------------------------------------------------------------ giving rows

    def take(self, key: str, count: int) -> np.ndarray:
        """`count` rows for `key`, which this device is about to fill; those that it
        has, if they are as many. Raises ValueError if there are too few."""
        owned = self._owned.get(key)
        if owned is None or len(owned.rows) != count:
            if count > self.num_free:
                raise ValueError(f"{count} hidden states, and room for {self.num_free}")
            owned = self._give(key, self._pop_any(count))
        owned.used = self.launched + 1
        self._blocked.discard(key)
        return owned.rows

    def reserve(self, key: str, count: int, writer: Writer) -> Reservation | None:
        """`count` rows for `key`, which `writer` may write once for this. None if there
        are too few that no queued step uses."""
        owned = self._owned.get(key)
        if owned is None:
            self._cool()
            if count > self._num_free:
                return None
            owned = self._give(key, self._pop_free(count))
        elif len(owned.rows) != count:
            return None
        self._tickets += 1
        self._blocked.discard(key)
        owned.writers[writer] = self._tickets
        return Reservation(self._tickets, owned.rows)

    def _give(self, key: str, rows: np.ndarray) -> _Owned:
        """Gives free rows to `key`. Those that it has, of another number, are let go."""
        if (before := self._owned.pop(key, None)) is not None:
            assert not before.writers, "content of one key has one length"
            self._release(before)
        self._owned[key] = owned = _Owned(rows)
        return owned

    # ------------------------------------------------------------------ use

    def __contains__(self, key: str) -> bool:
        """True if `key` has rows and is wanted."""
        return key in self._owned and key not in self._blocked

    def of(self, key: str) -> np.ndarray:
        """The rows of a wanted key, in the order of its states."""
        assert key in self
        return self._owned[key].rows

    def use(self, key: str) -> None:
        """The step that is launched now uses the rows of `key`."""
        if (owned := self._owned.get(key)) is not None:
            owned.used = max(owned.used, self.launched)

    def settle(self, step: int) -> None:
        """This step and all before it are over, on the devices of all ranks."""
        self._settled = max(self._settled, step)

    def drop(self, key: str) -> None:
        """`key` is not wanted any more, if it is here."""
        if key in self._owned:
            self._blocked.add(key)
            self._release_if_idle(key)

    # ------------------------------------------------------------------ writers

    def answered(self, key: str, writer: Writer, ticket: int) -> bool:
        """What `writer` was asked for by `ticket`, and before, is over. True if it may
        have written the rows of `key`: it was asked for them."""
        owned = self._owned.get(key)
        if owned is None or writer not in owned.writers:
            return False
        if owned.writers[writer] <= ticket:
            del owned.writers[writer]
            self._release_if_idle(key)
        return True

    def ticket(self, key: str, writer: Writer) -> int:
        """The last one by which `writer` was asked for `key` and has not answered; 0: none."""
        owned = self._owned.get(key)
        return 0 if owned is None else owned.writers.get(writer, 0)

    def end_writers(self, name: str, epoch: int) -> None:
        """The processes of an encoder up to this epoch are gone: they write nothing more."""
        for key, owned in list(self._owned.items()):
            for writer in [writer for writer in owned.writers if writer[0] == name]:
                if writer[1] <= epoch:
                    del owned.writers[writer]
            self._release_if_idle(key)

    def end_writes(self, writer: Writer, landing: Collection[str]) -> None:
        """`writer` has said that it writes nothing more but the states of the keys `landing`."""
        for key, owned in list(self._owned.items()):
            if key not in landing and owned.writers.pop(writer, 0):
                self._release_if_idle(key)

    def is_written(self, key: str) -> bool:
        """True while an encoder may write the rows of `key`: they do not become free yet."""
        owned = self._owned.get(key)
        return owned is not None and bool(owned.writers)

    def num_written(self, writers: Set[Writer]) -> int:
        """Rows that any of `writers` may still write."""
        owned = self._owned.values()
        return sum(len(one.rows) for one in owned if not writers.isdisjoint(one.writers))

    # ------------------------------------------------------------------ free rows

    def _release_if_idle(self, key: str) -> None:
        if key in self._blocked and not self._owned[key].writers:
            self._blocked.discard(key)
            self._release(self._owned.pop(key))

    def _release(self, owned: _Owned) -> None:
        if owned.used > self._settled:
            self._cooling.append((owned.used, owned.rows))
            self._num_cooling += len(owned.rows)
        else:
            self._push(owned.rows)

    def _cool(self) -> None:
        """Makes those free that no queued step uses any more."""
        for _ in range(len(self._cooling)):
            used, rows = self._cooling.popleft()
            if used > self._settled:
                self._cooling.append((used, rows))
            else:
                self._num_cooling -= len(rows)
                self._push(rows)

    def _push(self, rows: np.ndarray) -> None:
        self._free[self._num_free : self._num_free + len(rows)] = rows[::-1]
        self._num_free += len(rows)

    def _pop_free(self, count: int) -> np.ndarray:
        self._num_free -= count
        return self._free[self._num_free : self._num_free + count][::-1].copy()

    def _pop_any(self, count: int) -> np.ndarray:
        """Those first that cannot be reserved."""
        while self._cooling and count > self._num_free:
            _, rows = self._cooling.popleft()
            self._num_cooling -= len(rows)
            self._push(rows)
        return self._pop_free(count)
