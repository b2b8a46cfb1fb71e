"""Samples of where threads stand."""

import threading
import time

from antiphon.benchmarks.stacks import sampled


def test_a_thread_is_seen_where_it_waits() -> None:
    def wait_here() -> None:
        ended.wait()

    ended = threading.Event()
    thread = threading.Thread(target=wait_here, name="waiting-12", daemon=True)
    thread.start()
    with sampled() as stacks:
        until = time.monotonic() + 10
        while "waiting" not in stacks.places and time.monotonic() < until:
            time.sleep(0.01)
    ended.set()
    thread.join()
    (place,) = stacks.places["waiting"]
    assert "test_stacks.wait_here" in place
    assert "waiting: " in str(stacks)
