"""The supervisor's process starts beside the workers' ones: it must not take their time."""

import subprocess
import sys


def test_the_supervisor_needs_no_torch() -> None:
    """Its import takes seconds, on the cores on which the workers start at that moment."""
    code = (
        "import sys, antiphon.actors.supervisor, antiphon.actors.worker_process\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
