"""The benchmark of sequences that come and go: all of it runs, and nothing piles up."""

from pathlib import Path

from antiphon.benchmarks.admissions import SMALL, ReplicaWork, SchedulerWork, microseconds
from antiphon.benchmarks.shapes import PUBLISHED, write_checkpoint

STEPS = 100


def test_a_scheduler_admits_as_many_as_end() -> None:
    work = SchedulerWork(16)
    assert microseconds(work.step, STEPS) > 0
    scheduler = work.scheduler
    assert scheduler.counters["done"] > STEPS * 16 / 48
    assert len(scheduler.batch) >= 15  # one may have ended whose place nobody has yet
    scheduler.batch.check()
    scheduler.pages.check()


def test_a_replica_admits_as_many_as_end(tmp_path: Path) -> None:
    write_checkpoint({**PUBLISHED["bart-large-cnn"], **SMALL}, tmp_path)
    work = ReplicaWork(16, tmp_path)
    assert microseconds(work.step, STEPS) > 0
    assert work.replica.scheduler.counters["done"] > STEPS * 16 / 48
    work.replica.scheduler.pages.check()
