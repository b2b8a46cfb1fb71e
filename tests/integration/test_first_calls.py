"""The first call of a kind, by a whole engine, costs what later ones do."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from paths import FAKES, QWEN, T5, TROCR, WHISPER

pytestmark = pytest.mark.slow
TIMES, LATER, SLACK = 1.5, 4, 0.05  # of the later calls' median; later calls; seconds
KINDS = {"recordings": WHISPER, "chats": QWEN, "lines": TROCR, "texts": T5}


def check_first_calls(kind: str, folder: Path, *unprepared: str) -> None:
    done = subprocess.run(
        [sys.executable, str(FAKES / "first_calls.py"), kind, str(folder), str(1 + LATER),
         *unprepared],
        capture_output=True, text=True, check=False, timeout=250,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name, (first, *later) in json.loads(done.stdout).items():
        usual = statistics.median(later)
        assert first <= TIMES * usual + SLACK, f"{name}: {first:.3f} s, later {usual:.3f}"


@pytest.mark.parametrize(("kind", "folder"), KINDS.items(), ids=KINDS)
def test_a_first_call_takes_no_longer_than_later_ones(kind: str, folder: Path) -> None:
    """Pictures and recordings in files, chats, streams, words, beams, speech that is looked for."""
    check_first_calls(kind, folder)


def test_it_is_seen_where_a_first_recording_imports_what_reads_it() -> None:
    """What a first chat would wait for, tests/unit/inputs/test_warm_up.py sees."""
    with pytest.raises(AssertionError, match=r"other file: |voice activity: "):
        check_first_calls("recordings", WHISPER, "unprepared")
