"""Engines of one process share its connection to Ray, which lives in a thread of its own."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import forked_commands
import psutil
import pytest
import ray
from forked_commands import ENGINES
from paths import ROOT

from antiphon.actors.session import RaySession
from antiphon.config.errors import ConfigurationError

T5 = str(ROOT / "examples" / "t5_numbers" / "model")


@pytest.mark.parametrize("connected_before", [False, True])
def test_the_first_engine_connects_and_the_last_leaves_unless_the_program_had_connected(
    connected_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected = [connected_before]
    monkeypatch.setattr(ray, "is_initialized", lambda: connected[0])
    monkeypatch.setattr(ray, "init", lambda **_: connected.__setitem__(0, True))
    monkeypatch.setattr(ray, "shutdown", lambda: connected.__setitem__(0, False))
    session = RaySession()
    for _ in range(2):  # the session serves again after it was left
        session.join(None)
        session.join(None)
        assert connected == [True]
        session.leave()
        assert connected == [True]
        session.leave()
        assert connected == [connected_before]


def test_an_engine_that_could_not_connect_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    left = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: left.append(True))

    def refuse(**_: object) -> None:
        raise ConnectionError("nobody there")

    session = RaySession()
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConfigurationError, match="nobody there"):
        session.join(None)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    session.join(None)
    session.leave()
    assert left == [True]


def test_ray_starts_in_a_thread_that_no_engine_owns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel ends Ray's processes with the thread that started them."""
    starters: list[threading.Thread] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: starters.append(threading.current_thread()))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    session = RaySession()
    caller = threading.Thread(target=session.join, args=(None,))
    caller.start()
    caller.join()
    assert starters[0].is_alive()
    assert starters[0].daemon
    session.leave()
    assert starters[0].is_alive()


def test_a_wrong_address_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    began = time.monotonic()
    with pytest.raises(ConfigurationError, match=r"no Ray cluster at 127\.0\.0\.1:1: .*refused"):
        RaySession().join("127.0.0.1:1")
    assert time.monotonic() - began < 5


def _run(script: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """In a process of its own; `forked_commands` is quicker where Ray doesn't matter."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
    )


@pytest.mark.slow
def test_engines_and_event_loops_in_any_order_of_start_and_end() -> None:
    """A program that closes nothing ends with its own exit code, and leaves no process behind."""
    run = _run(
        f"""
        import asyncio, sys, psutil, ray, time
        from antiphon import AsyncEngine, Engine

        async def ask(engine, number):
            return (await engine.generate(f"in words: {{number}}")).outputs[0].text

        async def whole(number):
            async with AsyncEngine({T5!r}) as engine:
                return await ask(engine, number)

        print(asyncio.run(whole(1)))
        assert not ray.is_initialized()
        first = AsyncEngine({T5!r})
        async def begin():
            await first.start()
            return await ask(first, 2)
        print(asyncio.run(begin()))          # this loop ends, its engine stays open
        second = Engine({T5!r})
        try:
            asyncio.run(ask(first, 3))
        except Exception as error:
            print(type(error).__name__)
        asyncio.run(first.close())           # from another loop, once its own has ended
        print(second.generate("in words: 4", use_tqdm=False)[0].outputs[0].text)
        print(asyncio.run(begin()))          # and it starts again, in a third
        print([p.pid for p in psutil.Process().children(recursive=True)], flush=True)
        open("/proc/self/fd/2", "w").write(str(time.time()))
        sys.exit(5)
        """,
        timeout=200,
    )
    ended = time.time()
    assert run.returncode == 5, run.stderr
    *texts, pids = run.stdout.split("\n")[:-1]
    assert texts == ["one", "two", "EngineDeadError", "four", "two"]
    assert ended - float(run.stderr) < 10  # 17 s when Ray was left to ask busy workers to go
    left = [pid for pid in map(int, pids.strip("[]").split(", ")) if psutil.pid_exists(pid)]
    assert all(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE for pid in left)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 3.0, 4.0])
def test_an_interrupted_start_ends_at_once_and_leaves_nothing(seconds: float) -> None:
    """While Ray starts, and while workers load: no process stays, no second Ray begins."""
    script = f"""
        import sys
        from antiphon import Engine
        print("imported", flush=True)
        try:
            Engine({T5!r})
        except KeyboardInterrupt:
            sys.exit(130)
        """
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert program.stdout is not None
    program.stdout.readline()
    until = time.monotonic() + 60
    while not psutil.Process(program.pid).children() and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(seconds)
    started = psutil.Process(program.pid).children(recursive=True)
    began = time.monotonic()
    program.send_signal(signal.SIGINT)
    _, stderr = program.communicate(timeout=30)
    assert (program.returncode, stderr) == (130, "")
    assert time.monotonic() - began < 8  # 2 on a machine that does nothing else
    time.sleep(0.5)
    assert not [
        process
        for process in started
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


def test_a_forked_child_is_told_and_does_not_end_its_parents_workers() -> None:
    program = f"""
        import os, time
        from antiphon import Engine
        with Engine({T5!r}, ray=False) as engine:
            if (child := os.fork()) == 0:
                try:
                    engine.generate("in words: 7", use_tqdm=False)
                except Exception as error:
                    print(type(error).__name__, error, flush=True)
                engine.close()
                os._exit(0)
            os.waitpid(child, 0)
            print(engine.generate("in words: 8", use_tqdm=False)[0].outputs[0].text)
        """
    run = forked_commands.run(textwrap.dedent(program), imported=ENGINES)
    assert run.returncode == 0, run.stderr
    child, parent = run.stdout.splitlines()
    assert child.startswith("EngineDeadError this engine belongs to process")
    assert parent == "eight"


@pytest.mark.slow
@pytest.mark.parametrize("ray", [False, True])
def test_an_engine_in_a_forked_child_is_refused_at_once(ray: bool) -> None:
    """Ray's client would hang in it and OpenMP end it. It ends with its own exit code, not with
    a crash in Ray's exit steps."""
    run = _run(
        f"""
        import os, sys
        from antiphon import Engine
        with Engine({T5!r}, ray={ray}) as engine:
            if (child := os.fork()) == 0:
                try:
                    Engine({T5!r}, ray={ray})
                except Exception as error:
                    print(type(error).__name__, error, flush=True)
                sys.exit(7)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            print(engine.generate("in words: 8", use_tqdm=False)[0].outputs[0].text)
        """
    )
    assert run.returncode == 0, run.stderr
    child, code, parent = run.stdout.splitlines()
    assert child.startswith("ConfigurationError this process was forked off process")
    assert "spawn" in child
    assert (code, parent) == ("7", "eight")


def test_a_process_that_is_in_a_cluster_joins_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from antiphon.actors import ray_address

    monkeypatch.setattr(ray_address, "check_reachable", lambda address: None)
    for same in ("auto", "127.0.0.1:6379", "localhost:6379"):
        ray_address.check_same_cluster(same, "127.0.0.1:6379")
    for other in ("127.0.0.1:6380", "10.1.2.3:6379"):
        with pytest.raises(
            ConfigurationError, match=r"this process is in the Ray cluster at 127\.0\.0\.1:6379"
        ):
            ray_address.check_same_cluster(other, "127.0.0.1:6379")


def test_a_saved_token_is_used_for_a_cluster_joined_by_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from antiphon.actors import ray_address

    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # so that what is set below is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(
        "ray._raylet.Config", type("Config", (), {"initialize": staticmethod(lambda _: None)})
    )
    ray_address.use_saved_token()
    assert "RAY_AUTH_MODE" not in os.environ
    (tmp_path / "token").write_text("secret")
    ray_address.use_saved_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray_address.use_saved_token()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
