"""Triton kernel that sums a term over the ranks of a stage, adds it to the residual stream, and
norms the sum: what else takes a copy, a sum over symmetric memory and a norm, one after the other.

Each rank has memory that all of them map:

    halves [2, SLOTS, ROW_BYTES]   rows of terms
    flags  [SLOTS, RANKS] int32    which turn of a slot each rank has come to

Row i of every launch uses slot i. A program stores its row in its own half, tells the others, waits
until all of them have, and reads theirs. The turns of a slot use both halves alternately, so that
nothing has to be waited for at the end: who has met the others in a turn knows that they are done
with the turn before, and only then writes where that one's rows are. Turns are counted in memory,
not by the host: a CUDA graph may hold any number of launches.

A program waits on the device and for ever, as torch's kernels do: see `runtime/waiting.py`.
"""

import torch
import triton
import triton.language as tl

from antiphon.kernels.formats import FLOAT8
from antiphon.kernels.launch import overlapped, wait_for_previous
from antiphon.kernels.norms import normed_row, row_parts, store_row
from antiphon.kernels.shared_rows import RANKS, ROW_BYTES, SLOTS, SharedRows


@triton.jit(do_not_specialize=["rank", "size"])  # one kernel for all ranks, and for none
def _summed_norm_kernel(
    x, term, weight, bias, total, out, scales, bases, turns,
    eps, width, x_row, term_row, rank, size,
    FIRST: tl.constexpr, REST: tl.constexpr, MEAN: tl.constexpr, QUANTIZE: tl.constexpr,
    SLOTS: tl.constexpr, ROW_BYTES: tl.constexpr, RANKS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    cols_a, cols_b = tl.arange(0, FIRST), FIRST + tl.arange(0, REST)
    inside = cols_b < width
    gain_a, gain_b = tl.load(weight + cols_a), tl.load(weight + cols_b, mask=inside, other=0.0)
    wait_for_previous(OVERLAP)
    slot = tl.program_id(0)
    row = slot.to(tl.int64)
    turn = tl.load(turns + slot) + 1
    offset = ((turn & 1) * SLOTS + slot).to(tl.int64) * ROW_BYTES
    row_type = tl.pointer_type(term.dtype.element_ty)
    flag_type = tl.pointer_type(tl.int32)
    flags_at = 2 * SLOTS * ROW_BYTES + slot * (4 * RANKS)

    own = tl.multiple_of((tl.load(bases + rank) + offset).to(row_type), 16)
    tl.store(own + cols_a, tl.load(term + row * term_row + cols_a))
    own_b = tl.load(term + row * term_row + cols_b, mask=inside, other=0.0)
    tl.store(own + cols_b, own_b, mask=inside)
    a = tl.load(x + row * x_row + cols_a)  # on its way while this waits
    b = tl.load(x + row * x_row + cols_b, mask=inside, other=0.0)
    tl.debug_barrier()  # one thread tells of what all have stored
    for peer in range(size):
        flag = (tl.load(bases + peer) + flags_at + 4 * rank).to(flag_type)
        tl.atomic_xchg(flag, turn, sem="release", scope="sys")
    for peer in range(size):
        flag = (tl.load(bases + rank) + flags_at + 4 * peer).to(flag_type)
        # Another rank may have come to the next turn already, but not further.
        while tl.atomic_add(flag, 0, sem="acquire", scope="sys") - turn < 0:
            pass

    sum_a, sum_b = tl.zeros([FIRST], tl.float32), tl.zeros([REST], tl.float32)
    for peer in range(size):  # in one order on all ranks: the same bits
        peer_row = tl.multiple_of((tl.load(bases + peer) + offset).to(row_type), 16)
        sum_a += tl.load(peer_row + cols_a, cache_modifier=".cv").to(tl.float32)
        sum_b += tl.load(peer_row + cols_b, mask=inside, other=0.0, cache_modifier=".cv").to(
            tl.float32
        )
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
    total = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    out = torch.empty((rows, width), dtype=FLOAT8 if quantize else x.dtype, device=x.device)
    scales = None
    if quantize:
        scales = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
    _summed_norm_kernel[(rows,)](
        x, term, weight, weight if bias is None else bias, total, out,
        out if scales is None else scales, shared.bases, shared.turns,
        eps, width, x.stride(0), term.stride(0), shared.rank, shared.size,
        MEAN=bias is not None, QUANTIZE=quantize, SLOTS=SLOTS, ROW_BYTES=ROW_BYTES, RANKS=RANKS,
        **row_parts(width, 2 + quantize), **overlapped(x.device),
    )  # fmt: skip
    return total, out, scales
