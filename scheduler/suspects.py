"""Which of those that were in flight when a worker died is the cause, if one is.

Workers die for many reasons: a node goes, memory runs out, somebody stops a process.
Then what was in flight is innocent, and goes on elsewhere, however often that happens.
But an input that makes every worker crash must not be tried for ever. A death alone
tells nothing when many were in flight, so nobody is blamed for it. The rule:

- After its first death in flight, an entry goes on with all others.
- One that was in flight at two deaths, or that was the only one in flight at a death, is a
  *suspect*. Suspects run on trial: one at a time, while all others run as ever. A trial lasts until
  the suspect got on (its first token), so that a mass that went through two deaths is soon through
  its trials. From the fourth death on, it lasts to the end.
- A death with a suspect on trial, or with a single entry in flight, is a *kill* of that entry. It
  ends at its second kill, and it alone.
- But workers that die from outside may do so twice during trials. Each death that an entry cannot
  have caused, after the first one at which it was in flight, speaks for it: it takes one kill more.

Workers are shared: what others have in flight there is in no table of ours. So an entry
is the only one only if the worker's last heartbeat agrees, and on trial only if that
names it: suspects of all who use a worker take turns there (`Trials`). Other deaths are
no kills. Frontends judge requests so, by the deaths of decoders; decoders judge inputs,
by those of encoders.

So a poisonous request that is alone costs two deaths, and one in a crowd four, whatever
else was in flight, as long as no other worker dies.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

SUSPECT_DEATHS = 2
STRICT_DEATHS = 4  # from here on, a trial lasts to the end
KILLS = 2
NOTHING_SAID: Mapping[str, float] = {}


class Suspects(Generic[K]):
    """What deaths say about entries, until these end. Methods cost O(entries that they name).

    `mark`: what a worker's heartbeats call an entry on trial.
    """

    def __init__(self, mark: Callable[[K], int]) -> None:
        self._mark = mark
        self._total = 0  # deaths of workers
        self._before: dict[K, int] = {}  # deaths before the first one at which it was in flight
        self._deaths: Counter[K] = Counter()  # at which it was in flight
        self._kills: Counter[K] = Counter()
        self._on_trial: K | None = None

    def deaths(self, key: K) -> int:
        return self._deaths[key]

    @property
    def on_trial(self) -> K | None:
        return self._on_trial

    def died(self, in_flight: Collection[K], load: Mapping[str, float] = NOTHING_SAID) -> K | None:
        """A worker died. Returns the entry that is to be ended for it, if there is one.

        `load`: what its last heartbeat said. "senders": whose work it had, how many
        they were. "trial": the mark of the entry on trial that had begun; 0: none had.
        """
        for key in in_flight:
            self._before.setdefault(key, self._total)
        self._total += 1
        self._deaths.update(in_flight)
        culprit = self._tried(in_flight, load)
        was_there = self._on_trial is not None and self._on_trial in in_flight
        if was_there:
            self._on_trial = None
        elif culprit is None and len(in_flight) == 1 and load.get("senders", 0) <= 1:
            (culprit,) = in_flight
        if culprit is None:
            return None
        self._kills[culprit] += 1
        others = self._total - self._before[culprit] - self._deaths[culprit]
        return culprit if self._kills[culprit] >= KILLS + others else None

    def _tried(self, in_flight: Collection[K], load: Mapping[str, float]) -> K | None:
        """The entry in flight that was on trial, for us or for others that have it too."""
        if "trial" not in load:
            return next((key for key in in_flight if key == self._on_trial), None)
        marked = (key for key in in_flight if self._mark(key) == load["trial"])
        return next(marked, None) if load["trial"] else None

    def is_suspect(self, key: K) -> bool:
        if not self._total:
            return False
        return self._deaths[key] >= SUSPECT_DEATHS or self._kills[key] > 0

    def may_start(self, key: K) -> bool:
        """False for a suspect while another one is on trial."""
        return self._on_trial in (None, key) or not self.is_suspect(key)

    def is_strict(self, key: K) -> bool:
        """True if its trial lasts to its end."""
        return self._deaths[key] >= STRICT_DEATHS

    def start(self, key: K) -> None:
        """The entry is given to a worker, which `may_start` allowed."""
        if self.is_suspect(key):
            self._on_trial = key

    def got_on(self, key: K) -> bool:
        """The worker has shown a result of it. True if that ended its trial."""
        if self._on_trial != key or self.is_strict(key):
            return False
        self._on_trial = None
        return True

    def end(self, key: K) -> bool:
        """The entry has ended, or was taken back; it is forgotten. True if that ended its trial."""
        if not self._total:  # nothing is known of any
            return False
        self._before.pop(key, None)
        self._deaths.pop(key, None)
        self._kills.pop(key, None)
        was_on_trial = self._on_trial is not None and self._on_trial == key
        if was_on_trial:
            self._on_trial = None
        return was_on_trial
