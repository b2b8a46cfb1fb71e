"""Ctrl-C and SIGTERM: gone at once, one line, the shell's exit code, whatever runs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WAITED = 20.0  # seconds; a second on an idle machine, and 60 if something waited

# The command, with a program in place of what it would run. `abandon`, the engine's part, leaves a
# mark.
PROGRAM = """
import sys, types
session = types.ModuleType("antiphon.actors.session")
session.abandon = lambda: open(sys.argv[2], "w").close()
sys.modules["antiphon.actors.session"] = session
app = types.ModuleType("antiphon.cli.app")
sys.modules["antiphon.cli.app"] = app

def sleeps():
    time.sleep(60)

def swallows():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

def hangs_in_c():  # a lock that is held, which no signal interrupts
    mutex = ctypes.create_string_buffer(64)
    libc = ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)

def leaves_a_thread():
    threading.Thread(target=time.sleep, args=(60,)).start()
    time.sleep(60)

def cleans_up_slowly():
    try:
        time.sleep(60)
    finally:
        time.sleep(60)

def complains():
    try:
        time.sleep(60)
    finally:
        os.system("echo somebody else complains >&2")
        print("a traceback", file=sys.stderr)

def abandons_in_vain():
    session.abandon = lambda: time.sleep(60)
    time.sleep(60)

def run():
    print("ready", flush=True)
    globals()[sys.argv[1]]()

import atexit, ctypes, os, threading, time
atexit.register(time.sleep, 60)
app.run = run
from antiphon.cli import interrupt, main
interrupt.advise(None, float(sys.argv[3]))
main()
"""
PROGRAMS = [
    "sleeps",
    "swallows",
    "hangs_in_c",
    "leaves_a_thread",
    "cleans_up_slowly",
    "complains",
    "abandons_in_vain",
]


def start(program: str, mark: Path, unwind_seconds: float = 1.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, program, str(mark), str(unwind_seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)  # from "ready" to where it waits
    return process


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("signum", "code", "line"),
    [
        (signal.SIGINT, 130, "antiphon: interrupted\n"),
        (signal.SIGTERM, 143, "antiphon: terminated\n"),
    ],
    ids=["SIGINT", "SIGTERM"],
)
def test_one_signal(program: str, signum: int, code: int, line: str, tmp_path: Path) -> None:
    process = start(program, tmp_path / "abandoned")
    process.send_signal(signum)
    began = time.perf_counter()
    _, stderr = process.communicate(timeout=30)
    assert time.perf_counter() - began < WAITED
    assert (process.returncode, stderr) == (code, line)
    assert (tmp_path / "abandoned").exists() == (program != "abandons_in_vain")


@pytest.mark.parametrize("program", ["swallows", "cleans_up_slowly"])
def test_a_second_signal_does_not_wait(program: str, tmp_path: Path) -> None:
    process = start(program, tmp_path / "abandoned", unwind_seconds=60)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    began = time.perf_counter()
    _, stderr = process.communicate(timeout=30)
    assert time.perf_counter() - began < WAITED
    assert (process.returncode, stderr) == (130, "antiphon: interrupted\n")
    assert (tmp_path / "abandoned").exists()


def test_what_the_parent_ignores_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a child inherits it
    try:
        process = start("sleeps", tmp_path / "abandoned")
    finally:
        signal.signal(signal.SIGINT, before)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143


def test_while_modules_are_imported(tmp_path: Path) -> None:
    """The handlers stand before anything that takes long is imported."""
    slow = tmp_path / "typer.py"
    slow.write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    code = "from antiphon.cli import main; main()"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    began = time.perf_counter()
    _, stderr = process.communicate(timeout=30)
    assert time.perf_counter() - began < WAITED
    assert (process.returncode, stderr) == (130, "antiphon: interrupted\n")
