"""A norm that sums over ranks, in Triton's interpreter: ranks are processes that share memory."""

import multiprocessing
import os
import threading
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from antiphon.kernels.norms import add_norm, add_norm_quantized, row_parts
from antiphon.kernels.shared_rows import (
    FLAGS_BYTES,
    HALVES_BYTES,
    PUSHED_ROWS,
    RANKS,
    ROW_BYTES,
    SHARED_BYTES,
    SLOTS,
    SharedRows,
    goes_as_packets,
)
from antiphon.kernels.summed_norm import _without_copies, summed_norm

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="compiled there: tests/multi_gpu")

ROWS, WIDTH, EPS = 3, 72, 1e-5
ODD = 73  # elements: no whole packets, so that rows are pulled
FIRST = 2**31 - 6  # of the turns, which soon go on with negative numbers


def make(size: int, rank: int = 0) -> tuple[list[torch.Tensor], SharedRows]:
    memories = [torch.zeros(SHARED_BYTES, dtype=torch.uint8) for _ in range(size)]
    addresses = [memory.data_ptr() for memory in memories]
    return memories, SharedRows.of(memories[rank], addresses, rank)


def rows_of(memory: torch.Tensor, half: int, dtype: torch.dtype) -> torch.Tensor:
    """[SLOTS, elements] of one half, as its rank holds it."""
    rows = memory[:HALVES_BYTES].view(dtype).view(2, SLOTS, -1)
    return rows[half]


def flags_of(memory: torch.Tensor) -> torch.Tensor:
    flags = memory[HALVES_BYTES : HALVES_BYTES + FLAGS_BYTES]
    return flags.view(torch.int32).view(SLOTS, RANKS)


def packets_of(memory: torch.Tensor, half: int) -> torch.Tensor:
    """[RANKS, PUSHED_ROWS, words, 2] int32 of one half: four bytes of a row, and the turn."""
    packets = memory[HALVES_BYTES + FLAGS_BYTES :].view(torch.int32)
    return packets.view(2, RANKS, PUSHED_ROWS, ROW_BYTES // 4, 2)[half]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("mean", [True, False], ids=["layer norm", "RMS norm"])
@pytest.mark.parametrize("width", [WIDTH, ODD], ids=["pushed", "pulled"])
def test_it_is_the_sum_and_the_norm_of_it(dtype: torch.dtype, mean: bool, width: int) -> None:
    """With another rank whose rows are there before this one comes, turn after turn."""
    torch.manual_seed(1)
    weight, bias = torch.randn(2, width).to(dtype)
    (own, other), shared = make(2)
    for turn in range(1, 4):
        x, term, theirs = torch.randn(3, ROWS, width).to(dtype)
        if width == ODD:
            rows_of(other, turn & 1, dtype)[:ROWS, :width] = theirs
            flags_of(own)[:ROWS, 1] = turn + (turn == 2)  # it may be a turn ahead
        else:
            words = theirs.view(torch.int32)
            received = packets_of(own, turn & 1)[1, :ROWS, : words.shape[1]]
            received[..., 0], received[..., 1] = words, turn
        shift = bias if mean else None
        total, out, scales = summed_norm(x, term, weight, shift, EPS, shared)
        sums = (term.float() + theirs.float())[None]
        right, normed = add_norm(x, sums, None, weight, shift, EPS)
        assert torch.equal(total, right)
        assert torch.equal(out, normed)
        assert scales is None
        if width == ODD:
            assert torch.equal(rows_of(own, turn & 1, dtype)[:ROWS, :width], term)
            assert (flags_of(other)[:ROWS, 0] == turn).all()
        else:
            sent = packets_of(other, turn & 1)[0, :ROWS, : words.shape[1]]
            assert torch.equal(sent[..., 0], term.view(torch.int32))
            assert (sent[..., 1] == turn).all()
        assert shared.turns[: ROWS + 1].tolist() == [turn] * ROWS + [0]
        assert not flags_of(other)[:, 1:].any()
        assert not packets_of(other, turn & 1)[1:].any()


def test_flags_of_turns_long_ago_are_not_taken_for_new_ones() -> None:
    """Only turns of pulled rows raise flags: after 2^31 of pushed ones, flags seem to lie ahead."""
    turn, (own, other), shared = -(2**31) + 5, *make(2)
    shared.turns.fill_(turn - 1)
    flags_of(own).zero_()
    x, weight = torch.zeros(1, ODD), torch.ones(ODD)

    def meet() -> None:
        rows_of(other, turn & 1, torch.float32)[0, :ODD] = 2.0
        flags_of(own)[0, 1] = turn

    late = threading.Timer(1.0, meet)
    late.start()
    total, _, _ = summed_norm(x, weight[None], weight, None, EPS, shared)
    late.join()
    assert (total == 3.0).all()


@pytest.mark.parametrize(
    ("width", "per_word", "warps"),
    [(1280, 2, 4), (1280, 1, 4), (384, 2, 2), (1152, 2, 2), (576, 1, 2), (WIDTH, 2, 1)],
)
def test_no_two_warps_load_the_same_packet(width: int, per_word: int, warps: int) -> None:
    parts = row_parts(width, 2)
    own = _without_copies(parts, per_word)["num_warps"]
    assert own == warps
    assert own == 1 or min(parts["FIRST"], parts["REST"]) // per_word >= 32 * own


def test_few_rows_of_whole_packets_are_pushed() -> None:
    assert goes_as_packets(torch.zeros(PUSHED_ROWS, WIDTH))
    assert not goes_as_packets(torch.zeros(PUSHED_ROWS + 1, WIDTH))
    half = torch.zeros(2, ODD + 1, dtype=torch.float16)
    assert not goes_as_packets(half)  # 74: two packets a lane do not fill it
    assert goes_as_packets(torch.zeros(2, WIDTH + 2, dtype=torch.float16)[:, :WIDTH])
    assert not goes_as_packets(torch.zeros(2, ODD, dtype=torch.float16)[:, :WIDTH])


def test_float8_rows() -> None:
    x, term, weight = torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH), torch.randn(WIDTH)
    total, out, scales = summed_norm(x, term, weight, None, EPS, make(1)[1], quantize=True)
    right, values, right_scales = add_norm_quantized(x, term[None], None, weight, None, EPS)
    assert torch.equal(total, right)
    assert torch.equal(out.float(), values.float())
    assert scales is not None
    assert torch.equal(scales, right_scales)


def test_while_paused_no_rank_is_waited_for() -> None:
    memories, shared = make(3, rank=2)
    x = torch.ones(ROWS, WIDTH)
    total, _, _ = summed_norm(x, x, x[0], None, EPS, shared.paused())
    assert (total == 2).all()
    assert not any(memory.any() for memory in memories)
    assert not shared.turns.any()


@pytest.mark.parametrize(
    ("shape", "has_room"),
    [((1, 8), True), ((SLOTS, 4096), True), ((SLOTS + 1, 8), False), ((0, 8), False),
     ((1, 4097), False)],
)  # fmt: skip
def test_room(shape: tuple[int, int], has_room: bool) -> None:
    assert make(1)[1].has_room(torch.zeros(shape)) is has_room


def test_strided_rows_have_no_room() -> None:
    assert not make(1)[1].has_room(torch.zeros(8, 4).t())


def meet(memories: list[torch.Tensor], rank: int, turns: int, results: Any) -> None:
    """In the process of one rank: sums of turn after turn, without a word between them. Every other
    sum is of rows that are pulled."""
    shared = SharedRows.of(memories[rank], [memory.data_ptr() for memory in memories], rank)
    shared.turns.fill_(FIRST)
    wrong = 0
    for turn in range(turns):
        count = 1 + turn % 2  # slots differ in their turns
        width = 16 + turn // 2 % 2
        term = torch.full((count, width), float((rank + 1) * (turn + 1)))
        zeros, weight = torch.zeros(count, width), torch.ones(width)
        total, _, _ = summed_norm(zeros, term, weight, None, EPS, shared)
        size = len(memories)
        wrong += int((total != (turn + 1) * size * (size + 1) / 2).any())
    results.put((rank, wrong))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_never_mix_their_turns(size: int) -> None:
    assert os.environ["TRITON_INTERPRET"] == "1"
    context = multiprocessing.get_context("spawn")
    memories = [torch.zeros(SHARED_BYTES, dtype=torch.uint8).share_memory_() for _ in range(size)]
    for memory in memories:
        flags_of(memory).fill_(FIRST)
        for half in range(2):
            packets_of(memory, half)[..., 1] = FIRST - 1 + half % 2
    results = context.Queue()
    processes = [
        context.Process(target=meet, args=(memories, rank, 12, results)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    try:
        seen = dict(results.get(timeout=200) for _ in range(size))
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert seen == dict.fromkeys(range(size), 0)
