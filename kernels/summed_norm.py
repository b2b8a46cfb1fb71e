"""Triton kernel that sums a term over the ranks of a stage, adds it to the residual stream, and
norms the sum: what else takes a copy, a sum over symmetric memory and a norm, one after the other.

Each rank has memory that all of them map:

    halves  [2, SLOTS, ROW_BYTES]                          rows of its own terms
    flags   [SLOTS, RANKS] int32                           which turn each rank has come to
    packets [2, RANKS, PUSHED_ROWS, ROW_BYTES / 4] int64   rows that the others sent it

Row i of every launch uses slot i. Few rows are pushed: a program writes its row into every other
rank's packets and reads what those wrote into its own, so that a row crosses the link once and
nothing behind it. A packet is four bytes of the row and the turn, written at once, which is how a
reader knows it (NCCL's low-latency protocol). Many rows are pulled, in half the bytes: a program
stores its row in its own half, tells the others, waits until all of them have, and reads theirs.

The turns of a slot use both halves alternately, so that nothing has to be waited for at the end:
who has met the others in a turn knows that they are done with the turn before, and only then writes
where that one's rows are. Turns are counted in memory, not by the host: a CUDA graph may hold any
number of launches.

A program waits on the device and for ever, as torch's kernels do: see `runtime/waiting.py`.
"""

import torch
import triton
import triton.language as tl

from antiphon.kernels.formats import FLOAT8
from antiphon.kernels.launch import overlapped, wait_for_previous
from antiphon.kernels.norms import normed_row, row_parts, store_row
from antiphon.kernels.shared_rows import (
    FLAGS_BYTES,
    HALVES_BYTES,
    PUSHED_ROWS,
    RANKS,
    ROW_BYTES,
    SLOTS,
    SharedRows,
    goes_as_packets,
)


@triton.jit
def _missing(packets, turn):
    """Whether any of them is not of this turn yet."""
    return tl.max(((packets >> 32).to(tl.int32) != turn).to(tl.int32), 0) > 0


@triton.jit
def _elements(words, TYPE: tl.constexpr, PER_WORD: tl.constexpr):
    """The row's elements in words [words] int32, as float32."""
    if PER_WORD == 1:
        elements = words.to(TYPE, bitcast=True)
    elif TYPE == tl.bfloat16:  # noqa: SIM300  # the upper half of a float32
        low = (words << 16).to(tl.float32, bitcast=True)
        elements = tl.interleave(low, (words & -65536).to(tl.float32, bitcast=True))
    else:
        low = words.to(tl.int16).to(TYPE, bitcast=True)
        high = (words >> 16).to(tl.int16).to(TYPE, bitcast=True)
        elements = tl.interleave(low, high)
    return elements.to(tl.float32)


@triton.jit
def _pushed_sum(
    term, bases, turn, slot, width, rank, size,
    FIRST: tl.constexpr, REST: tl.constexpr, PER_WORD: tl.constexpr,
    ROWS: tl.constexpr, ROW_BYTES: tl.constexpr, RANKS: tl.constexpr, BEHIND: tl.constexpr,
):  # fmt: skip
    """The sum over the ranks of the row at `term`, in two parts. The packets of every rank begin
    BEHIND its base."""
    words_a = tl.arange(0, FIRST // PER_WORD)
    words_b = FIRST // PER_WORD + tl.arange(0, REST // PER_WORD)
    inside = words_b < width // PER_WORD
    row = term.to(tl.pointer_type(tl.int32))
    own_a, own_b = tl.load(row + words_a), tl.load(row + words_b, mask=inside, other=0)
    mark = turn.to(tl.int64) << 32
    packet_type = tl.pointer_type(tl.int64)
    half = BEHIND + ((turn & 1) * (RANKS * ROWS) + slot).to(tl.int64) * (2 * ROW_BYTES)
    between: tl.constexpr = ROWS * 2 * ROW_BYTES  # of two ranks' packets
    for peer in range(size):
        if peer != rank:
            sent = (tl.load(bases + peer) + half + rank * between).to(packet_type)
            sent = tl.multiple_of(sent, 16)
            tl.store(sent + words_a, (own_a.to(tl.int64) & 0xFFFFFFFF) | mark)
            tl.store(sent + words_b, (own_b.to(tl.int64) & 0xFFFFFFFF) | mark, mask=inside)

    sum_a, sum_b = tl.zeros([FIRST], tl.float32), tl.zeros([REST], tl.float32)
    for peer in range(size):  # in one order on all ranks: the same bits
        part_a, part_b = own_a, own_b
        if peer != rank:
            got = (tl.load(bases + rank) + half + peer * between).to(packet_type)
            got = tl.multiple_of(got, 16)
            a = tl.load(got + words_a, volatile=True)
            b = tl.load(got + words_b, mask=inside, other=mark, volatile=True)
            while _missing(a, turn):
                a = tl.load(got + words_a, volatile=True)
            while _missing(b, turn):
                b = tl.load(got + words_b, mask=inside, other=mark, volatile=True)
            part_a, part_b = a.to(tl.int32), b.to(tl.int32)
        sum_a += _elements(part_a, term.dtype.element_ty, PER_WORD)
        sum_b += _elements(part_b, term.dtype.element_ty, PER_WORD)
    return sum_a, sum_b


@triton.jit
def _pulled_sum(
    term, bases, turn, slot, width, rank, size,
    FIRST: tl.constexpr, REST: tl.constexpr,
    SLOTS: tl.constexpr, ROW_BYTES: tl.constexpr, RANKS: tl.constexpr, BEHIND: tl.constexpr,
):  # fmt: skip
    """As `_pushed_sum`. The flags of every rank begin BEHIND its base."""
    cols_a, cols_b = tl.arange(0, FIRST), FIRST + tl.arange(0, REST)
    inside = cols_b < width
    offset = ((turn & 1) * SLOTS + slot).to(tl.int64) * ROW_BYTES
    row_type = tl.pointer_type(term.dtype.element_ty)
    flag_type = tl.pointer_type(tl.int32)
    flags_at = BEHIND + slot * (4 * RANKS)

    own = tl.multiple_of((tl.load(bases + rank) + offset).to(row_type), 16)
    tl.store(own + cols_a, tl.load(term + cols_a))
    tl.store(own + cols_b, tl.load(term + cols_b, mask=inside, other=0.0), mask=inside)
    tl.debug_barrier()  # one thread tells of what all have stored
    for peer in range(size):
        flag = (tl.load(bases + peer) + flags_at + 4 * rank).to(flag_type)
        tl.atomic_xchg(flag, turn, sem="release", scope="sys")
    for peer in range(size):
        flag = (tl.load(bases + rank) + flags_at + 4 * peer).to(flag_type)
        # Another rank may have come to the next turn already, but not further. Flags of turns long
        # ago, before rows were pushed, may be any number.
        seen = tl.atomic_add(flag, 0, sem="acquire", scope="sys")
        while (seen != turn) & (seen != turn + 1):
            seen = tl.atomic_add(flag, 0, sem="acquire", scope="sys")

    sum_a, sum_b = tl.zeros([FIRST], tl.float32), tl.zeros([REST], tl.float32)
    for peer in range(size):  # in one order on all ranks: the same bits
        peer_row = tl.multiple_of((tl.load(bases + peer) + offset).to(row_type), 16)
        sum_a += tl.load(peer_row + cols_a, cache_modifier=".cv").to(tl.float32)
        sum_b += tl.load(peer_row + cols_b, mask=inside, other=0.0, cache_modifier=".cv").to(
            tl.float32
        )
    return sum_a, sum_b


@triton.jit(do_not_specialize=["rank", "size"])  # one kernel for all ranks, and for none
def _summed_norm_kernel(
    x, term, weight, bias, total, out, scales, bases, turns,
    eps, width, x_row, term_row, rank, size,
    FIRST: tl.constexpr, REST: tl.constexpr, MEAN: tl.constexpr, QUANTIZE: tl.constexpr,
    PER_WORD: tl.constexpr, SLOTS: tl.constexpr, PUSHED: tl.constexpr, ROW_BYTES: tl.constexpr,
    RANKS: tl.constexpr, FLAGS_AT: tl.constexpr, PACKETS_AT: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """PER_WORD: elements of a packet; 0: rows are pulled."""
    cols_a, cols_b = tl.arange(0, FIRST), FIRST + tl.arange(0, REST)
    inside = cols_b < width
    gain_a, gain_b = tl.load(weight + cols_a), tl.load(weight + cols_b, mask=inside, other=0.0)
    wait_for_previous(OVERLAP)
    slot = tl.program_id(0)
    row = slot.to(tl.int64)
    turn = tl.load(turns + slot) + 1
    a = tl.load(x + row * x_row + cols_a)  # on its way while this waits
    b = tl.load(x + row * x_row + cols_b, mask=inside, other=0.0)
    own = term + row * term_row
    if PER_WORD:
        sum_a, sum_b = _pushed_sum(
            own, bases, turn, slot, width, rank, size,
            FIRST, REST, PER_WORD, PUSHED, ROW_BYTES, RANKS, PACKETS_AT,
        )  # fmt: skip
    else:
        sum_a, sum_b = _pulled_sum(
            own, bases, turn, slot, width, rank, size,
            FIRST, REST, SLOTS, ROW_BYTES, RANKS, FLAGS_AT,
        )  # fmt: skip
    tl.store(turns + slot, turn)

    a += sum_a.to(a.dtype)
    b += sum_b.to(b.dtype)
    tl.store(total + row * width + cols_a, a)
    tl.store(total + row * width + cols_b, b, mask=inside)
    a, b = normed_row(
        a, b, gain_a, gain_b, bias, cols_a, cols_b, eps, width, x.dtype.element_ty, MEAN
    )
    store_row(a, b, out, scales, row, cols_a, cols_b, width, QUANTIZE)


def summed_norm(
    x: torch.Tensor,
    term: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    shared: SharedRows,
    quantize: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """`x` plus the sum of every rank's `term`, both [tokens, hidden] of one dtype with contiguous
    rows; its norm; and with `quantize` the scales [tokens, 1] of the norm, which is float8 then.

    All ranks call this with the same shapes, in the same order. Of `weight` and `bias`: as in
    `norms.add_norm`.
    """
    rows, width = x.shape
    assert shared.has_room(term)
    parts, per_word = row_parts(width, 2 + quantize), 0
    if goes_as_packets(term):
        assert term.data_ptr() % 4 == 0, "four bytes of a row are read at a time"
        per_word = 4 // term.itemsize
        parts = _without_copies(parts, per_word)
    total = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    out = torch.empty((rows, width), dtype=FLOAT8 if quantize else x.dtype, device=x.device)
    scales = None
    if quantize:
        scales = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
    _summed_norm_kernel[(rows,)](
        x, term, weight, weight if bias is None else bias, total, out,
        out if scales is None else scales, shared.bases, shared.turns,
        eps, width, x.stride(0), term.stride(0), shared.rank, shared.size,
        MEAN=bias is not None, QUANTIZE=quantize,
        PER_WORD=per_word, SLOTS=SLOTS, PUSHED=PUSHED_ROWS, ROW_BYTES=ROW_BYTES, RANKS=RANKS,
        FLAGS_AT=HALVES_BYTES, PACKETS_AT=HALVES_BYTES + FLAGS_BYTES,
        **parts, **overlapped(x.device),
    )  # fmt: skip
    return total, out, scales


def _without_copies(parts: dict[str, int], per_word: int) -> dict[str, int]:
    """`parts` with no more warps than have packets of their own: two that load the same packet may
    see it before and behind its turn."""
    packets = min(parts["FIRST"], parts["REST"]) // per_word
    return {**parts, "num_warps": max(1, min(parts["num_warps"], packets // 32))}
