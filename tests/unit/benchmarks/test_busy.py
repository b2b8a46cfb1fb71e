"""What a load keeps busy."""

import os
import time

import pytest

from antiphon.benchmarks.busy import Busy, means


def test_a_core_that_works_and_one_that_waits() -> None:
    with Busy({"caller": os.getpid()}) as waiting:
        time.sleep(0.3)
    with Busy({"caller": os.getpid()}) as working:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
    assert waiting.cpus["caller"] < 20
    assert waiting.cpus["caller"] < working.cpus["caller"]


def test_means_by_gpu_of_whole_lines() -> None:
    lines = "0, 100\n1, 0\n0, 50\n1, 20\n1, [N/A]\n0"
    assert means(lines) == {"0": 75.0, "1": 10.0}
    assert means("") == {}


def test_a_process_that_is_gone_is_an_error() -> None:
    import psutil

    with pytest.raises(psutil.NoSuchProcess):
        Busy({"worker": 2**22 + 1})
