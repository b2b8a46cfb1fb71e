"""Ends of processes: sure, of no other process with that number, and told in a sentence."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
import ray.exceptions

from antiphon.actors.processes import birth, end_local, why_gone

RAY_SAYS = (
    "The actor died because of an error raised in its creation task\n"
    "The actor is dead because its worker process has died. Worker exit detail: connection error "
    "code 2. End of file. Some common causes include: (1) the process was killed by the OOM killer "
    "due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed."
)


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_process_that_ray_does_not_end_is_killed(
    sleeper: "subprocess.Popen[bytes]", stopped: bool
) -> None:
    if stopped:
        os.kill(sleeper.pid, signal.SIGSTOP)
    began = time.monotonic()
    asyncio.run(end_local(sleeper.pid, birth(sleeper.pid)))
    assert sleeper.wait(1) == -signal.SIGKILL
    assert time.monotonic() - began < 20  # it would sleep for 60


def test_another_process_of_that_number_is_left_alone(
    sleeper: "subprocess.Popen[bytes]",
) -> None:
    born = birth(sleeper.pid)
    assert born is not None
    asyncio.run(end_local(sleeper.pid, born - 1))
    assert sleeper.poll() is None


def test_a_process_that_ended_has_no_birth(sleeper: "subprocess.Popen[bytes]") -> None:
    sleeper.kill()
    sleeper.wait()
    assert birth(sleeper.pid) is None
    asyncio.run(end_local(sleeper.pid, 1.0))


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            RAY_SAYS,
            "its process is gone: The actor is dead because its worker process has died. "
            "Worker exit detail: connection error code 2. End of file.",
        ),
        ("the node left", "its process is gone: the node left"),
    ],
)
def test_a_dead_process_is_one_sentence_without_a_lecture(message: str, told: str) -> None:
    assert why_gone(ray.exceptions.RayError(message)) == told
