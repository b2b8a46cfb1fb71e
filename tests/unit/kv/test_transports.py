"""When each transport sends what was queued."""

import os
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_examples import examples

from antiphon.kernels.row_copy import copy_rows
from antiphon.kv.arena import StateArena
from antiphon.kv.handoff import HiddenStates, Place
from antiphon.kv.transports import transport_to
from antiphon.kv.transports.cuda_memory import CudaHandle
from antiphon.kv.transports.frames import Arrivals
from antiphon.kv.transports.mapped import ArenaExport, Mapped, MappedArena, write_runs
from antiphon.kv.transports.mapping import MappingError

CPU = torch.device("cpu")


def states(key: str) -> HiddenStates:
    return HiddenStates((key,), (2,), torch.zeros(2, 3))


def test_a_decoder_in_this_process_gets_states_that_are_still_computed() -> None:
    sent: list[HiddenStates] = []
    transport = transport_to(True, sent.append, CPU)
    transport.queued(first := states("a"))
    assert sent == [first]
    transport.computed()
    assert sent == [first]


def test_other_processes_get_states_when_they_are_computed_in_their_order() -> None:
    sent: list[HiddenStates] = []
    transport = transport_to(False, sent.append, CPU)
    transport.queued(first := states("a"))
    transport.queued(second := states("b"))
    assert sent == []
    transport.computed()
    assert sent == [first]
    transport.computed()
    assert sent == [first, second]


def test_states_that_arrive_where_they_are_used_stay_as_they_are() -> None:
    assert Arrivals(CPU).on_device(arrived := states("a")) is arrived


@pytest.mark.gpu
def test_from_gpu_to_gpu_by_way_of_the_host() -> None:
    device, sent = torch.device("cuda"), []
    transport, arrivals = transport_to(False, sent.append, device), Arrivals(device)
    packed = torch.randn(1000, 64, device=device)
    transport.queued(HiddenStates(("a",), (1000,), packed))
    transport.computed()
    assert sent[0].packed.is_pinned()
    arrived = arrivals.on_device(sent[0])
    assert arrived.ready is not None
    arrived.ready.synchronize()
    assert arrived.computed
    assert torch.equal(arrived.packed, packed)


def exported(width: int = 3, dtype: torch.dtype = torch.float32) -> tuple[StateArena, ArenaExport]:
    arena = StateArena(16, width, dtype, CPU)
    export = ArenaExport("arena", (arena.export(),), 16, width, str(dtype).removeprefix("torch."))
    return arena, export


def test_rows_are_written_where_the_decoder_reads_them_and_told_when_they_are() -> None:
    arena, export = exported()
    back: list[Any] = []
    arena.states.fill_(-1)
    mapped = Mapped(lambda *answer: back.append(answer), MappedArena(export, CPU))
    assert mapped.arena.dtype is torch.float32
    packed = torch.arange(15.0).view(5, 3)
    places = [Place("arena", 4, np.array([7, 8])), Place("arena", 5, np.array([3, 12, 11]))]
    mapped.queued(HiddenStates(("a", "b"), (2, 3), packed), places)
    assert back == []
    assert torch.equal(arena.states[[7, 8, 3, 12, 11]], packed)
    assert (arena.states == -1).all(1).sum() == 11
    mapped.close()
    mapped.computed()
    assert back == [(("a", "b"), (4, 5))]


def test_the_memory_outlives_neither_its_mappings_nor_its_arena() -> None:
    arena, export = exported()
    (handle,) = export.ranks
    mapped = MappedArena(export, CPU)
    arena.states[2] = 5
    shared = mapped._shared[0]
    assert (shared[2] == 5).all()
    mapped.close()
    os.close(handle.descriptor)
    with pytest.raises(MappingError, match="cannot be opened"):
        MappedArena(export, CPU)


def test_memory_of_somebody_else_is_not_taken_for_an_arena() -> None:
    """The number of a process may be given again, and files have small numbers."""
    _, export = exported()
    (handle,) = export.ranks
    wrong = msgspec.structs.replace(handle, name="antiphon-arena-other")
    with pytest.raises(MappingError, match="not the memory antiphon-arena-other"):
        MappedArena(msgspec.structs.replace(export, ranks=(wrong,)), CPU)
    gpu = CudaHandle(b"x" * 64, 0)
    with pytest.raises(MappingError, match="an encoder on cpu cannot write"):
        MappedArena(msgspec.structs.replace(export, ranks=(gpu,)), CPU)


@examples(50)
@given(st.permutations(range(9)), st.integers(0, 9))
def test_runs_of_rows(rows: list[int], count: int) -> None:
    arena, packed = torch.zeros(9, 2), torch.randn(count, 2)
    write_runs(arena, np.array(rows[:count], np.int64), packed)
    assert torch.equal(arena[rows[:count]], packed)
    assert (arena[rows[count:]] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_writes_rows_of_every_target(dtype: torch.dtype) -> None:
    """On a CPU in Triton's interpreter."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source = torch.randn(5, 2, 40).bfloat16().float().to(device)[:, 1]  # the interpreter truncates
    targets = [torch.full((8, 40), -1.0, dtype=dtype, device=device) for _ in range(2)]
    rows = torch.tensor([6, 0, 1, 5, 3], device=device)
    addresses = torch.tensor([target.data_ptr() for target in targets], device=device)
    copy_rows(source, rows, addresses, dtype)
    for target in targets:
        assert torch.equal(target[rows], source.to(dtype))
        assert (target[[2, 4, 7]] == -1).all()
