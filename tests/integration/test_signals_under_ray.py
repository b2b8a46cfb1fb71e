"""A signal is the program's own, whether or not Ray runs in it."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import signal, sys, time
from antiphon.actors.session import session
if sys.argv[1] == "handles":
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(7))
session.join(None)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("program", "code"), [("handles", 7), ("leaves it", -signal.SIGTERM)])
def test_sigterm_brings_no_stack_trace_of_ray(program: str, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (code, "")
