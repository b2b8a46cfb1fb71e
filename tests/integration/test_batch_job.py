"""`ray job submit -- antiphon batch ...` on a cluster of its own, ended half-way and submitted
again."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import batches
import psutil
import pytest
from paths import ROOT, T5

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

RAY = str(Path(sys.executable).with_name("ray"))
NUMBERS = 1500


@dataclass
class Cluster:
    dashboard: str
    environment: dict[str, str]

    def ray(self, *arguments: str) -> str:
        done = subprocess.run(
            [RAY, *arguments],
            env={**self.environment, "RAY_API_SERVER_ADDRESS": self.dashboard},
            capture_output=True,
            text=True,
            timeout=240,
        )
        return done.stdout + done.stderr

    def submit(self, name: str, command: list[str]) -> None:
        output = self.ray("job", "submit", "--no-wait", "--submission-id", name, "--", *command)
        assert "submitted successfully" in output, output

    def stop(self, name: str) -> None:
        """By a request, not by `ray job stop`, whose start alone takes seconds: the job may be done
        by then."""
        request = urllib.request.Request(f"{self.dashboard}/api/jobs/{name}/stop", method="POST")
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert json.load(reply) == {"stopped": True}

    def status(self, name: str) -> str:
        words = self.ray("job", "status", name)
        stated = re.search(rf"ob '{name}'(?:: | was | )(\w+)", words)
        assert stated is not None, words
        return stated[1].lower()

    def wait(self, name: str, done: Callable[[str], bool], seconds: float = 600) -> str:
        end = time.monotonic() + seconds
        while not done(state := self.status(name)):
            assert time.monotonic() < end, self.ray("job", "logs", name)
            time.sleep(0.5)
        return state


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Ray started by its command, with a folder of its own: other programs must not join it."""
    gcs, dashboard, agent = free_ports(3)
    folder = tempfile.mkdtemp(prefix="aj", dir="/tmp")  # sockets need a short path
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "NO_COLOR": "1",
        "RAY_TMPDIR": folder,
        "PYTHONPATH": str(ROOT / ".typing"),
    }
    environment.pop("RAY_ADDRESS", None)
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", f"--port={gcs}"]
    command += [
        "--include-dashboard=true",
        f"--dashboard-port={dashboard}",
        "--disable-usage-stats",
    ]
    command += [f"--dashboard-agent-listen-port={agent}", f"--temp-dir={folder}"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        cluster = Cluster(f"http://127.0.0.1:{dashboard}", environment)
        end = time.monotonic() + 120
        while not (words := cluster.ray("job", "list")).rstrip().endswith("[]"):
            assert time.monotonic() < end, words
            time.sleep(1.0)
        yield cluster
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(timeout=60)
        _, alive = psutil.wait_procs(children, timeout=20)
        for child in alive:
            child.kill()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_job_that_is_ended_half_way_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    texts = (f"in words: {number}" for number in range(NUMBERS))
    manifest = batches.write_manifest(tmp_path / "m.jsonl", texts)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "antiphon", "batch", str(manifest), "-m", str(T5)]
    command += ["--output", str(out), "--shard-lines", "200", "--max-num-seqs", "8"]

    cluster.submit("first", command)
    wait_for_lines(cluster, "first", out, 100)
    cluster.stop("first")
    assert cluster.wait("first", lambda state: state not in ("pending", "running")) == "stopped"
    after_stop = written(out)

    cluster.submit("second", command)
    wait_for_lines(cluster, "second", out, after_stop + 100)
    (driver,) = drivers(str(out))
    driver.send_signal(signal.SIGKILL)
    assert cluster.wait("second", lambda state: state not in ("pending", "running")) == "failed"
    after_kill = written(out)

    cluster.submit("third", command)
    state = cluster.wait("third", lambda state: state not in ("pending", "running"))
    logs = cluster.ray("job", "logs", "third")
    assert state == "succeeded", logs
    assert "joining the Ray cluster" in logs
    assert f"of {NUMBERS} lines are done" in logs
    results = batches.results(out)
    assert set(results) == set(range(1, NUMBERS + 1))
    assert results[1 + 999]["text"] == "nine hundred ninety nine"
    assert 100 <= after_stop < after_kill < NUMBERS


def wait_for_lines(cluster: Cluster, name: str, out: Path, count: int) -> None:
    """Until so many lines are written, in finished shards or not. Lines that an earlier job wrote
    count too: ask for more of them than there are."""
    end = time.monotonic() + 240
    while written(out) < count:
        assert time.monotonic() < end, cluster.ray("job", "logs", name)
        time.sleep(0.02)


def written(out: Path) -> int:
    try:
        paths = [*out.glob("part-*"), *(out / "_antiphon").glob("part-*")]
        return sum(path.read_bytes().count(b"\n") for path in paths)
    except FileNotFoundError:  # a log became a shard in between
        return 0


def drivers(out: str) -> list[psutil.Process]:
    """The processes that run this batch, without the shells around them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if out in words and "batch" in words and words[0] == sys.executable:
            found.append(process)
    return found
