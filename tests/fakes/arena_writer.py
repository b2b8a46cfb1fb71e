"""An encoder in a process of its own, which writes into the arena of this one."""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from unittest import mock

import numpy as np
import torch

from antiphon.kv.arena import StateArena
from antiphon.kv.handoff import HiddenStates, Place
from antiphon.kv.transports.mapped import ArenaExport, Mapped, MappedArena

CLIPS, WAIT_SECONDS = 8, 60


def states_of(seed: int, shape: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Random ones that bfloat16 holds, the same in every process."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).bfloat16().to(device)


def encode(commands: Connection, device_type: str, tokens: int) -> None:
    """Writes what it is told, and answers when that is done."""
    export = commands.recv()
    device = torch.device(device_type, 0) if device_type == "cuda" else torch.device("cpu")
    memory = MappedArena(export, device)
    mapped = Mapped(lambda keys, tickets: commands.send((keys, tickets)), memory)
    keys, shape = tuple(map(str, range(CLIPS))), (CLIPS * tokens, export.width)
    while (command := commands.recv()) is not None:
        seed, rows = command
        places = [Place("arena", seed + 1, part) for part in np.split(rows, CLIPS)]
        states = HiddenStates(keys, (tokens,) * CLIPS, states_of(seed, shape, device))
        mapped.queued(states, places)
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        mapped.computed()
    mapped.close()
    commands.send("closed")


@contextmanager
def writing(arena: StateArena, export: ArenaExport) -> Iterator[tuple[Connection, BaseProcess]]:
    """The encoder, which sees only the second GPU, as a worker of Ray sees only its own."""
    context = multiprocessing.get_context("spawn")
    commands, other_end = context.Pipe()
    tokens = len(arena.states) // (2 * CLIPS)
    process = context.Process(target=encode, args=(other_end, arena.device.type, tokens))
    with mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": "1"}):
        process.start()
    other_end.close()
    commands.send(export)
    try:
        yield commands, process
    finally:
        process.kill()
        process.join()


def exported(arena: StateArena) -> ArenaExport:
    rows, width = arena.states.shape
    dtype = str(arena.states.dtype).removeprefix("torch.")
    return ArenaExport("arena", (arena.export(),), rows, width, dtype)


def receive(commands: Connection) -> object:
    assert commands.poll(WAIT_SECONDS)
    return commands.recv()


def check_batches(arena: StateArena, batches: int) -> None:
    """They arrive bit for bit, in their rows alone."""
    choose, room = np.random.default_rng(0), len(arena.states)
    with writing(arena, exported(arena)) as (commands, _):
        for seed in range(batches):
            rows = choose.permutation(room)[: room // 2]
            others = np.setdiff1d(np.arange(room), rows)
            arena.states.fill_(float("nan"))
            if arena.device.type == "cuda":
                torch.cuda.synchronize(arena.device)
            commands.send((seed, rows))
            receive(commands)
            expected = states_of(seed, (room // 2, arena.states.shape[1]), arena.device)
            written = arena.states[torch.from_numpy(rows).to(arena.device)]
            assert torch.equal(written, expected.to(arena.states.dtype))
            assert arena.states[torch.from_numpy(others).to(arena.device)].isnan().all()
        commands.send(None)
        assert receive(commands) == "closed"


def check_deaths(arena: StateArena, deaths: int) -> None:
    """An encoder that is killed while it writes harms neither the arena nor the next encoder."""
    export, rows = exported(arena), np.arange(len(arena.states) // 2)
    for _ in range(deaths):
        with writing(arena, export) as (commands, process):
            commands.send((0, rows))
            receive(commands)
            for seed in range(1, 5):
                commands.send((seed, rows))
            process.kill()
            process.join()
    arena.states.fill_(3.0)
    assert (arena.states == 3.0).all()
