"""A child forked off a program that had connected to Ray itself, before it made any engine."""

import subprocess
import sys
import textwrap
import time

import pytest
from paths import ROOT, T5

START = 'ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")'
FORKS = {
    "os.fork": """
        if (child := os.fork()) == 0:
            work()
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
    "multiprocessing": """
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        print(process.exitcode)
        """,
}


@pytest.mark.slow
@pytest.mark.parametrize(("fork", "code"), [("os.fork", "7"), ("multiprocessing", "0")])
def test_it_is_told_at_once_and_ends_by_itself(fork: str, code: str) -> None:
    program = f"""
        import multiprocessing, os, sys, time, warnings
        import ray
        warnings.simplefilter("ignore")
        {START}

        def work():
            from antiphon import Engine
            from antiphon.config.errors import ConfigurationError
            import antiphon.actors.cluster
            began = time.monotonic()
            for _ in range(2):
                try:
                    Engine({str(T5)!r})
                except ConfigurationError as error:
                    print(error, flush=True)
            print(time.monotonic() - began < 20, flush=True)
        {FORKS[fork]}
        print(ray.get(ray.put("the parent goes on")))
        """
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=200, cwd=ROOT, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    *told, at_once, exit_code, parent = run.stdout.splitlines()
    assert len(told) == 2
    assert all(
        "forked off one that had called ray.init()" in line and "spawn" in line for line in told
    )
    assert (at_once, exit_code, parent) == ("True", code, "the parent goes on"), (
        time.monotonic() - began
    )
