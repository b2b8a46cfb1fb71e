"""Two processes and the real NIXL: `python -m nixl_courses`."""

import multiprocessing
import time
from multiprocessing.connection import Connection

import numpy as np
import torch

from antiphon.kv.arena import StateArena
from antiphon.kv.handoff import HiddenStates, Place
from antiphon.kv.sharing import share
from antiphon.kv.transports.mapped import ArenaExport
from antiphon.kv.transports.nixl import Nixl

CPU, ROWS, WIDTH, TOKENS, BATCHES = torch.device("cpu"), 1024, 64, 200, 20
SECONDS = 60.0


def states_of(seed: int) -> torch.Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed)).bfloat16()


def decode(pipe: Connection) -> None:
    """Has the arena, and sends what is in it."""
    arena = StateArena(ROWS, WIDTH, torch.bfloat16, CPU)
    arena.states.fill_(-1)
    far = share(arena, "nixl").far
    assert far is not None
    pipe.send(ArenaExport("arena", (), ROWS, WIDTH, "bfloat16", (far,)))
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
            lambda states, reason: self.failed.append((states, reason)),
        )

    def write(self, seed: int, rows: np.ndarray) -> None:
        states = HiddenStates(("a", "b"), (50, TOKENS - 50), states_of(seed))
        places = [Place("arena", seed, rows[:50]), Place("arena", seed + 1, rows[50:])]
        self.nixl.queued(states, places)
        sent, end = self.nixl.computed(), time.monotonic() + SECONDS
        while sent is not None and not sent():
            assert time.monotonic() < end
            time.sleep(0.001)


def main() -> None:
    context = multiprocessing.get_context("spawn")
    pipe, far = context.Pipe()
    process = context.Process(target=decode, args=(far,), daemon=True)
    process.start()
    encoder, choose = Written(pipe.recv()), np.random.default_rng(0)
    wanted = np.full((ROWS, WIDTH), -1, np.float32)
    for seed in range(BATCHES):
        rows = choose.permutation(ROWS)[:TOKENS] if seed % 2 else np.arange(TOKENS) + seed
        encoder.write(seed, rows)
        wanted[rows] = states_of(seed).float().numpy()
        pipe.send("read")
        np.testing.assert_array_equal(pipe.recv(), wanted)
    assert encoder.told == [(("a", "b"), (seed, seed + 1)) for seed in range(BATCHES)]
    assert not encoder.failed
    process.kill()
    process.join()
    encoder.write(BATCHES, np.arange(TOKENS))
    ((states, reason),) = encoder.failed
    assert reason
    assert torch.equal(states.packed, states_of(BATCHES))
    encoder.nixl.close()
    print("done")


if __name__ == "__main__":
    main()
