"""The real NIXL: an encoder in another process writes into this one's arena, over UCX.

Its wheel (69 MB) is installed into a folder of its own, unless NIXL is here.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PACKAGES = ("nixl==1.5.1", "nixl-cu12==1.5.1")
HERE = Path(__file__).parents[2] / "fakes"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a process that can import NIXL."""
    paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
    if find_spec("nixl") is None:
        folder = tmp_path_factory.mktemp("nixl")
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, "--no-deps", "--target", str(folder), *PACKAGES], check=True)
        paths.append(str(folder))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def test_states_arrive_until_the_decoder_dies(environment: dict[str, str]) -> None:
    run(environment, "all", "arrive_until_the_decoder_dies")


def test_writes_that_are_not_waited_for(environment: dict[str, str]) -> None:
    """Over TCP, where a process that is stopped takes nothing in."""
    run(environment, "tcp", "are_not_waited_for")


def run(environment: dict[str, str], transports: str, course: str) -> None:
    """A course of `tests/fakes/nixl_courses.py`, with these `transports` of UCX."""
    ended = subprocess.run(
        [sys.executable, "-m", "nixl_courses", course],
        env=environment | {"UCX_TLS": transports},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr
    assert "done" in ended.stdout
