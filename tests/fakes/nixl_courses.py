"""Two processes and the real NIXL: `python -m nixl_courses COURSE`."""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch

from antiphon.kv.arena import StateArena
from antiphon.kv.handoff import HiddenStates, Place
from antiphon.kv.sharing import share
from antiphon.kv.transports import nixl
from antiphon.kv.transports.mapped import ArenaExport
from antiphon.kv.transports.nixl import Nixl

CPU, ROWS, WIDTH, TOKENS, BATCHES = torch.device("cpu"), 1024, 64, 200, 20
SECONDS = 60.0
PR_SET_PDEATHSIG = 1  # see prctl(2)


def states_of(seed: int) -> torch.Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed)).bfloat16()


def decode(pipe: Connection) -> None:
    """Has the arena, and sends what is in it. Ends with the encoder, even while it is stopped."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    arena = StateArena(ROWS, WIDTH, torch.bfloat16, CPU)
    arena.states.fill_(-1)
    handle = share(arena, "nixl")
    assert handle is not None
    pipe.send(ArenaExport("arena", (handle,), ROWS, WIDTH, "bfloat16"))
    while pipe.recv() is not None:
        pipe.send(arena.states.float().numpy())


class Written:
    """An encoder, with what it has told and what it could not write."""

    def __init__(self, export: ArenaExport) -> None:
        self.told: list[tuple[tuple[str, ...], tuple[int, ...]]] = []
        self.failed: list[tuple[HiddenStates, str]] = []
        self.nixl = Nixl(
            export,
            CPU,
            lambda keys, tickets: self.told.append((keys, tickets)),
            lambda _, states, reason: self.failed.append((states, reason)),
        )

    def write(self, seed: int, rows: np.ndarray) -> None:
        states = HiddenStates(("a", "b"), (50, TOKENS - 50), states_of(seed))
        places = [Place("arena", seed, rows[:50]), Place("arena", seed + 1, rows[50:])]
        self.nixl.queued(states, places)
        sent = self.nixl.computed()
        if sent is not None:
            until(sent)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@contextmanager
def a_decoder() -> Iterator[tuple[ArenaExport, Connection, BaseProcess]]:
    """In a process of its own, which has the other end of the pipe."""
    context = multiprocessing.get_context("spawn")
    pipe, far = context.Pipe()
    process = context.Process(target=decode, args=(far,), daemon=True)
    process.start()
    try:
        yield pipe.recv(), pipe, process
    finally:
        process.kill()
        process.join()


def read(pipe: Connection) -> np.ndarray:
    """What is in the arena, [ROWS, WIDTH] float32."""
    pipe.send("read")
    there: np.ndarray = pipe.recv()
    return there


def arrive_until_the_decoder_dies() -> None:
    with a_decoder() as (export, pipe, process):
        encoder, choose = Written(export), np.random.default_rng(0)
        wanted = np.full((ROWS, WIDTH), -1, np.float32)
        for seed in range(BATCHES):
            rows = choose.permutation(ROWS)[:TOKENS] if seed % 2 else np.arange(TOKENS) + seed
            encoder.write(seed, rows)
            wanted[rows] = states_of(seed).float().numpy()
            np.testing.assert_array_equal(read(pipe), wanted)
        assert encoder.told == [(("a", "b"), (seed, seed + 1)) for seed in range(BATCHES)]
        assert not encoder.failed
        process.kill()
        process.join()
        encoder.write(BATCHES, np.arange(TOKENS))
        ((states, reason),) = encoder.failed
        assert reason
        assert torch.equal(states.packed, states_of(BATCHES))
        encoder.nixl.close()


def are_not_waited_for() -> None:
    """A decoder that is stopped takes nothing in over TCP (other ways within a machine write its
    memory without it). A write that was given up lands when it goes on; one that was abandoned is
    over once it has died."""
    with a_decoder() as (export, pipe, process):
        encoder, another = Written(export), Written(export)
        for each in (encoder, another):
            each.write(0, np.arange(TOKENS))  # it is connected
        pid = stop(process)
        is_given_up(encoder)
        os.kill(pid, signal.SIGCONT)
        until(encoder.nixl.check)
        np.testing.assert_array_equal(read(pipe)[GIVEN_UP], states_of(1).float().numpy())
        assert encoder.nixl.landing == ()
        assert not encoder.nixl.is_open
        encoder.write(2, GIVEN_UP)
        assert len(encoder.failed) == 2, "nothing is posted any more"
        assert len(encoder.told) == 1
        stop(process)
        is_abandoned(another)
        process.kill()
        until(another.nixl.check)
        assert not another.nixl.is_open


def stop(process: BaseProcess) -> int:
    """Returns its id, once none of its threads runs any more: they go on for a while after the
    signal, longer on a busy machine."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    tasks = list(Path(f"/proc/{process.pid}/task").iterdir())
    until(lambda: all(state_of(task) == "T" for task in tasks))
    return process.pid


def state_of(task: Path) -> str:
    """Of a thread: the letter of proc(5) behind its name, which is in brackets."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


GIVEN_UP = np.arange(TOKENS) + TOKENS  # rows


def is_given_up(encoder: Written) -> None:
    before, nixl.WRITE_SECONDS = nixl.WRITE_SECONDS, 0.2
    encoder.write(1, GIVEN_UP)
    nixl.WRITE_SECONDS = before
    ((states, reason),) = encoder.failed
    assert "took longer than 0.2 s" in reason
    assert torch.equal(states.packed, states_of(1))
    for _ in range(20):
        assert not encoder.nixl.check()
        assert encoder.nixl.landing == ("a", "b")
        time.sleep(0.01)
    assert encoder.nixl.is_open


def is_abandoned(encoder: Written) -> None:
    """As that to a decoder that has ended: nobody waits for it."""
    states = HiddenStates(("a",), (TOKENS,), states_of(1))
    encoder.nixl.queued(states, [Place("arena", 1, np.arange(TOKENS))])
    sent = encoder.nixl.computed()
    assert sent is not None
    assert not sent()
    encoder.nixl.abandon()
    assert sent()
    assert not encoder.failed
    assert encoder.nixl.is_open


COURSES = {
    course.__name__: course for course in (arrive_until_the_decoder_dies, are_not_waited_for)
}


if __name__ == "__main__":
    COURSES[sys.argv[1]]()
    print("done")
