"""What begins beside an engine's start, and goes on when a program ends soon."""

import subprocess
import sys

import pytest

PROGRAM = """
import time
from antiphon.engine import life

def work():
    time.sleep(0.5)
    print("done", flush=True)

life._meanwhile(work)
print("ends", flush=True)
raise SystemExit(3)
"""


@pytest.mark.slow  # imports torch in a process of its own
def test_a_program_ends_behind_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (3, ["ends", "done"]), done.stderr
