"""Free memory goes back to the system once a worker has rested for a while."""

import gc
import os
import platform

import psutil
import pytest
import torch

from antiphon.runtime.idle_memory import REST_SECONDS, IdleMemory, return_free_memory

MEBIBYTE = 1 << 20


class Rests:
    """What an `IdleMemory` gives back, and when, by a clock that the test sets."""

    def __init__(self) -> None:
        self.now, self.given_back = 0.0, list[float]()
        self._memory = IdleMemory(lambda: self.given_back.append(self.now), lambda: self.now)

    def note(self, now: float, is_idle: bool) -> None:
        self.now = now
        self._memory.note(is_idle)


def test_once_in_each_rest() -> None:
    rests = Rests()
    for now in (0.0, 1.0, REST_SECONDS, REST_SECONDS + 1, 3 * REST_SECONDS):
        rests.note(now, is_idle=True)
    assert rests.given_back == [REST_SECONDS]
    rests.note(90.0, is_idle=False)
    for now in (100.0, 101.0, 100.0 + REST_SECONDS):
        rests.note(now, is_idle=True)
    assert rests.given_back == [REST_SECONDS, 100.0 + REST_SECONDS]


def test_work_begins_the_rest_anew() -> None:
    rests = Rests()
    for step in range(20):
        rests.note(step * REST_SECONDS / 2, is_idle=step % 2 == 0)
    assert not rests.given_back


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_memory_between_kept_pieces_goes_back() -> None:
    """Pieces small enough for malloc's heap, each second one of which stays."""
    pieces = [torch.ones(16_000) for _ in range(2 * 2000)]  # 64 kB, below any threshold of mmap
    kept = pieces[::2]
    del pieces
    gc.collect()
    before = psutil.Process(os.getpid()).memory_info().rss
    return_free_memory()
    after = psutil.Process(os.getpid()).memory_info().rss
    assert len(kept) == 2000
    assert before - after > 60 * MEBIBYTE
