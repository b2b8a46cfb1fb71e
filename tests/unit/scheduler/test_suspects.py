"""Who is blamed when workers die: a poisonous entry alone, soon; innocent ones not."""

import random

import pytest

from antiphon.scheduler.suspects import Suspects
from antiphon.scheduler.trials import trial_mark


class Pool:
    """Entries on workers, as frontends run them: suspects one at a time, others at once."""

    def __init__(self, count: int, poison: int | None, workers: int) -> None:
        self.suspects: Suspects[int] = Suspects(trial_mark)
        self.left = set(range(count))
        self.poison, self.workers = poison, workers
        self.given_up: list[int] = []
        self.deaths = 0

    def round(self, choose: random.Random, killed: bool) -> None:
        """All that may start runs: the poison kills its worker, others end unless theirs dies."""
        places: dict[int, list[int]] = {worker: [] for worker in range(self.workers)}
        for key in sorted(self.left):
            if self.suspects.may_start(key):
                self.suspects.start(key)
                places[choose.randrange(self.workers)].append(key)
        victim = choose.randrange(self.workers) if killed else -1
        for worker, keys in places.items():
            if worker == victim or self.poison in keys:
                self.deaths += 1
                culprit = self.suspects.died(keys)
                if culprit is not None:
                    self.given_up.append(culprit)
                    self._end(culprit)
            else:
                for key in keys:
                    self._end(key)

    def _end(self, key: int) -> None:
        self.left.discard(key)
        self.suspects.end(key)


@pytest.mark.parametrize(("count", "deaths"), [(1, 2), (2, 4), (500, 4)])
def test_a_poisonous_entry_is_given_up_after_its_second_kill(count: int, deaths: int) -> None:
    pool = Pool(count, poison=0, workers=1)
    while pool.left:
        pool.round(random.Random(1), killed=False)
    assert pool.given_up == [0]
    assert pool.deaths == deaths


def test_one_in_a_crowd_that_is_gone_is_found_sooner() -> None:
    pool = Pool(40, poison=7, workers=4)
    while pool.left:
        pool.round(random.Random(2), killed=False)
    assert pool.given_up == [7]
    assert pool.deaths <= 4


def test_workers_that_die_from_outside_blame_hardly_anybody() -> None:
    """One of four workers dies in every round, so that each request has one chance in four to be
    killed whenever it runs: as bad as it gets."""
    blamed = 0
    for seed in range(300):
        choose, pool = random.Random(seed), Pool(30, None, workers=4)
        while pool.left:
            pool.round(choose, killed=True)
        blamed += len(pool.given_up)
    assert blamed < 0.005 * 300 * 30


def test_a_suspect_that_got_on_makes_room_for_the_next() -> None:
    suspects: Suspects[str] = Suspects(trial_mark)
    assert suspects.died("abc") is None
    assert all(map(suspects.may_start, "abc"))
    assert suspects.died("ab") is None
    suspects.start("a")
    assert not suspects.may_start("b")
    assert suspects.may_start("c")
    assert suspects.got_on("a")
    assert suspects.may_start("b")
    assert not suspects.got_on("c")


def test_after_many_deaths_a_trial_lasts_to_the_end() -> None:
    suspects: Suspects[str] = Suspects(trial_mark)
    for _ in range(4):
        suspects.died("ab")
    suspects.start("a")
    assert not suspects.got_on("a")
    assert not suspects.may_start("b")
    assert suspects.end("a")
    assert suspects.may_start("b")


def test_who_ended_is_forgotten() -> None:
    suspects: Suspects[str] = Suspects(trial_mark)
    for _ in range(3):
        suspects.died("ab")
    for key in "ab":
        suspects.end(key)
    assert not suspects._before
    assert not suspects._deaths
    assert not suspects._kills


def test_the_only_one_of_ours_is_not_blamed_where_others_had_work() -> None:
    suspects: Suspects[str] = Suspects(trial_mark)
    for _ in range(2):
        assert suspects.died("a", {"senders": 2, "trial": 0}) is None
    assert suspects.is_suspect("a")
    suspects.start("a")
    of_others = {"senders": 2, "trial": trial_mark("z")}
    assert suspects.died("a", of_others) is None, "another one was on trial"
    assert suspects.on_trial is None
    on_trial = {"senders": 2, "trial": trial_mark("a")}
    suspects.start("a")
    assert suspects.died("a", on_trial) is None, "its first kill"
    suspects.start("a")
    assert suspects.died("a", on_trial) == "a"


def test_what_is_on_trial_for_others_is_so_for_us() -> None:
    """Content that several have asked for; nobody else in flight is blamed."""
    suspects: Suspects[str] = Suspects(trial_mark)
    load = {"senders": 2, "trial": trial_mark("b")}
    assert suspects.died("abc", load) is None, "its first kill"
    assert [key for key in "abc" if suspects.is_suspect(key)] == ["b"]
    assert suspects.died("abc", load) == "b"
