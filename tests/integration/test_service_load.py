"""Mixed traffic on a server while workers are killed: a short run of the script for long ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

SECONDS = 60  # of traffic
LIMIT = 540  # seconds for all of it, on a slow machine too
MEMORY = 600  # MiB: caches are still filling; long runs say whether anything grows


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 60)
def test_every_answer_is_right(tmp_path: Path) -> None:
    output = tmp_path / "load.json"
    command = [
        sys.executable, ROOT / "benchmarks" / "scripts" / "service_load.py",
        "--minutes", SECONDS / 60, "--callers", 8, "--every", 15, "--warm-up", 5, "--settle", 4,
        "--memory-limit", MEMORY, "--output", output,
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    rows = {row["what"]: row for row in json.loads(output.read_text())["rows"]}
    assert rows["SIGKILL of a worker, until it was back"]["count"] >= 1
    assert rows["streamed transcription"]["count"] > 0
    assert all(not row.get("wrong or failed") for row in rows.values())
