"""`benchmarks/gpu_runs.sh`: what its steps call exists."""

import re
import subprocess
from pathlib import Path

import pytest
from paths import ROOT

RUNS = ROOT / "benchmarks" / "gpu_runs.sh"
STEPS = re.findall(r"^step_(\w+)\(\)", RUNS.read_text(), re.M)


def test_steps_are_listed() -> None:
    listed = subprocess.run([RUNS], capture_output=True, text=True)
    assert listed.returncode == 2
    assert [line.split(": ")[0] for line in listed.stdout.splitlines()] == STEPS


@pytest.mark.parametrize("step", STEPS)
def test_commands_of_steps_exist(step: str, tmp_path: Path) -> None:
    """A stand-in for Python writes down what it is called with."""
    calls = tmp_path / "calls"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    python.chmod(0o755)
    subprocess.run([RUNS, step, tmp_path / "out", "."], env={"PYTHON": str(python)}, check=True)
    for call in calls.read_text().splitlines():
        program, *arguments = call.split()
        if program == "-m":  # pytest's own and antiphon's flags
            assert arguments[0] in ("pytest", "antiphon")
            continue
        text = (ROOT / program).read_text()
        flags = [argument for argument in arguments if argument.startswith("--")]
        assert [flag for flag in flags if f'"{flag}"' not in text] == []
