"""How long hidden states take from an encoder's process into a decoder's arena, in microseconds,
from when their computation is queued until the decoder knows that they are there. No model.

python -m antiphon.benchmarks.handoff [width] [tokens of a clip]

On a CPU: shared memory, and frames over a Unix socket. With two GPUs: CUDA IPC, frames by way of
the host, and NCCL send and receive between the two processes, which is what the link can do.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from antiphon.actors.address import Host
from antiphon.actors.channel import Inbox, Sender
from antiphon.actors.messages import StatesWritten
from antiphon.kv.arena import StateArena
from antiphon.kv.handoff import HiddenStates, Place
from antiphon.kv.transports.frames import Arrivals, Frames
from antiphon.kv.transports.interface import Transport
from antiphon.kv.transports.mapped import ArenaExport, Mapped, MappedArena
from antiphon.scheduler.request import Incarnation

HERE = Host("127.0.0.1", "this node")
CLIPS, REPEATS = (1, 8, 32), 30
FRAMES_REPEATS = 5  # 123 MB each, at most
STORE_PORT = 29677


def device_of(rank: int) -> torch.device:
    gpus = torch.cuda.device_count() >= 2
    return torch.device("cuda", rank) if gpus else torch.device("cpu")


def measure(width: int, tokens: int) -> Iterator[tuple[str, dict[int, float]]]:
    """Each way with its medians by number of clips, as they come."""
    context = multiprocessing.get_context("spawn")
    commands, encoder_end = context.Pipe()
    process = context.Process(target=encode, args=(encoder_end, width, tokens), daemon=True)
    process.start()
    device, dtype = device_of(0), _dtype()
    arena = StateArena(2 * max(CLIPS) * tokens, width, dtype, device)
    export = ArenaExport(
        "arena", (arena.export(),), len(arena.states), width, str(dtype).removeprefix("torch.")
    )
    inbox = Inbox(HERE)
    commands.send((inbox.address, export))
    ways: dict[str, Callable[[int], None]] = {
        "mapped": lambda clips: _await(inbox, StatesWritten),
        "frames": lambda clips: _put(arena, _await(inbox, HiddenStates), device),
    }
    if device.type == "cuda":
        ways["NCCL"] = _nccl(0, width, tokens)
    for way, arrive in ways.items():
        medians: dict[int, float] = {}
        for clips in CLIPS:
            took = []
            for _ in range(REPEATS if way != "frames" else FRAMES_REPEATS):
                commands.send((way, clips))
                arrive(clips)
                arrived = time.monotonic()  # one clock for all processes of a machine
                took.append(arrived - commands.recv())
            medians[clips] = float(np.median(took)) * 1e6
        yield way, medians
    commands.send(None)
    process.join()
    inbox.close()


def _await(inbox: Inbox, kind: type) -> Any:
    while True:
        inbox.wait(1000)
        for message in inbox.messages(1):
            assert isinstance(message, kind)
            return message


def _put(arena: StateArena, states: HiddenStates, device: torch.device) -> None:
    arena.put(Arrivals(device).on_device(states))
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _nccl(rank: int, width: int, tokens: int) -> Callable[[int], None]:
    from torch import distributed
    from torch._C._distributed_c10d import TCPStore

    device = device_of(rank)
    store = TCPStore("127.0.0.1", STORE_PORT, 2, is_master=rank == 0)
    distributed.init_process_group("nccl", store=store, rank=rank, world_size=2, device_id=device)
    buffer = torch.zeros(max(CLIPS) * tokens, width, dtype=_dtype(), device=device)

    def move(clips: int) -> None:
        part = buffer[: clips * tokens]
        distributed.send(part, 0) if rank else distributed.recv(part, 1)
        torch.cuda.synchronize(device)

    return move


# ---------------------------------------------------------------------- the encoder's process


def encode(commands: Connection, width: int, tokens: int) -> None:
    """Sends what it is told, and when it began."""
    device = device_of(1)
    address, export = commands.recv()
    sender, me = Sender(address, HERE.node), Incarnation("encoder-0", 1)
    arena = MappedArena(export, device)

    def announce(keys: tuple[str, ...], tickets: tuple[int, ...]) -> None:
        sender.send(StatesWritten("arena", keys, tickets, me))

    ways: dict[str, Transport] = {
        "mapped": Mapped(announce, arena),
        "frames": Frames(sender.send, device),
    }
    packed = torch.randn(max(CLIPS) * tokens, width, dtype=_dtype(), device=device)
    nccl: Callable[[int], None] | None = None
    while (command := commands.recv()) is not None:
        way, clips = command
        if way == "NCCL":
            nccl = nccl or _nccl(1, width, tokens)
            began = time.monotonic()
            nccl(clips)
        else:
            began = _hand_off(ways[way], packed[: clips * tokens], clips, tokens)
        commands.send(began)
    arena.close()


def _hand_off(way: Transport, packed: torch.Tensor, clips: int, tokens: int) -> float:
    keys = tuple(map(str, range(clips)))
    rows = np.arange(clips * tokens).reshape(clips, tokens)
    places = [Place("arena", number + 1, rows[number]) for number in range(clips)]
    if packed.is_cuda:
        torch.cuda.synchronize(packed.device)
    began = time.monotonic()
    way.queued(HiddenStates(keys, (tokens,) * clips, packed), places)
    if packed.is_cuda:
        event = torch.cuda.Event()
        event.record()
        while not event.query():  # as the encoder's loop does
            time.sleep(0)
    way.computed()
    return began


def _dtype() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.device_count() >= 2 else torch.float32


def main() -> None:
    width = int(sys.argv[1]) if len(sys.argv) > 1 else 1280
    tokens = int(sys.argv[2]) if len(sys.argv) > 2 else 1500
    print(f"{device_of(0).type}, clips of {tokens} x {width} in {_dtype()}, microseconds")
    for way, medians in measure(width, tokens):
        cells = ", ".join(f"{clips} clips {took:.0f}" for clips, took in medians.items())
        print(f"{way}: {cells}", flush=True)


if __name__ == "__main__":
    main()
