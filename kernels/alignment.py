"""When tokens were said, by three Triton kernels for all sequences that end in a step.

    weights_kernel     attention of each row's query to all frames: logits, and what they sum to
    salience_kernel    by how many standard deviations a weight differs from the mean of all rows
    smooth_kernel      the median of every few frames, and the mean over heads

On CPUs torch and Numba do the same (`decoder/alignment.py`). In torch it was some sixty launches
for every sequence, which took the host a seventh of the time of 32 callers.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from antiphon.kernels.log_sums import MINUS_INF

ROWS, FRAMES = 16, 64  # of a tile
SMOOTH_ROWS, SMOOTH_FRAMES = 4, 64


class Keys(NamedTuple):
    """Where the keys of some heads are: those of a head `offsets[head]` elements behind `first`,
    in pages of `page_size` frames."""

    first: torch.Tensor
    offsets: torch.Tensor  # [heads] int64
    page_stride: int  # elements
    frame_stride: int
    page_size: int


@triton.jit(do_not_specialize=["num_rows", "room", "table_row"])
def _weights_kernel(
    queries, keys, key_offsets, places, starts, frame_counts, pages, logits, sums,
    scale, num_rows, room, table_row, page_stride,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    FRAME_STRIDE: tl.constexpr, ROWS: tl.constexpr, FRAMES: tl.constexpr,
):  # fmt: skip
    """A program has one head of ROWS rows of a sequence."""
    head, sequence = tl.program_id(0), tl.program_id(2)
    first, last = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    first += tl.program_id(1) * ROWS
    if first >= last:
        return
    rows, dims = first + tl.arange(0, ROWS), tl.arange(0, D)
    is_row, is_dim = rows < last, dims < HEAD_DIM
    place = tl.load(places + rows, mask=is_row, other=0).to(tl.int64)
    asked = queries + (place * HEADS + head)[:, None] * HEAD_DIM + dims[None, :]
    q = tl.load(asked, mask=is_row[:, None] & is_dim[None, :], other=0.0)
    keys += tl.load(key_offsets + head)
    table = pages + sequence.to(tl.int64) * table_row
    out_rows = head.to(tl.int64) * num_rows + rows
    count = tl.load(frame_counts + sequence)
    highest = tl.full([ROWS], MINUS_INF, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for start in range(0, count, FRAMES):
        frames = start + tl.arange(0, FRAMES)
        is_frame = frames < count
        page = tl.load(table + frames // PAGE, mask=is_frame, other=0).to(tl.int64)
        offsets = page * page_stride + frames % PAGE * FRAME_STRIDE
        k = tl.load(
            keys + offsets[None, :] + dims[:, None],
            mask=is_frame[None, :] & is_dim[:, None], other=0.0,
        )  # fmt: skip
        scores = tl.dot(q, k.to(q.dtype), input_precision="ieee") * scale
        is_own = is_row[:, None] & is_frame[None, :]
        tl.store(logits + out_rows[:, None] * room + frames[None, :], scores, mask=is_own)
        scores = tl.where(is_frame[None, :], scores, MINUS_INF)
        top = tl.maximum(highest, tl.max(scores, 1))
        total = total * tl.exp(highest - top) + tl.sum(tl.exp(scores - top[:, None]), 1)
        highest = top
    tl.store(sums + out_rows * 2, highest, mask=is_row)
    tl.store(sums + out_rows * 2 + 1, total, mask=is_row)


@triton.jit
def _weights(logits, sums, rows, is_row, frames, is_frame, room):
    """[ROWS, FRAMES] of one head; 0 outside."""
    highest = tl.load(sums + rows * 2, mask=is_row, other=0.0)
    total = tl.load(sums + rows * 2 + 1, mask=is_row, other=1.0)
    is_own = is_row[:, None] & is_frame[None, :]
    places = rows[:, None] * room + frames[None, :]
    scores = tl.load(logits + places, mask=is_own, other=MINUS_INF)
    return tl.exp(scores - highest[:, None]) / total[:, None]


@triton.jit
def _differences(logits, sums, rows, is_row, frames, is_frame, room, base):
    """Of weights from `base` [FRAMES], as `_weights` has them."""
    weights = _weights(logits, sums, rows, is_row, frames, is_frame, room)
    return tl.where(is_row[:, None], weights - base[None, :], 0.0)


@triton.jit(do_not_specialize=["num_rows", "room"])
def _salience_kernel(
    logits, sums, starts, frame_counts, num_rows, room, ROWS: tl.constexpr, FRAMES: tl.constexpr
):  # fmt: skip
    """A program has one head of FRAMES frames of a sequence, and overwrites their `logits`."""
    head, sequence = tl.program_id(0).to(tl.int64), tl.program_id(2)
    first, last = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    count = tl.load(frame_counts + sequence)
    if tl.program_id(1) * FRAMES >= count:
        return
    frames = tl.program_id(1) * FRAMES + tl.arange(0, FRAMES)
    is_frame = frames < count
    logits += head * num_rows * room
    sums += head * num_rows * 2
    # Less those of the first row: the mean of equal weights might not be the same number.
    rows = first + tl.arange(0, ROWS).to(tl.int64)
    base = tl.sum(_weights(logits, sums, rows, rows == first, frames, is_frame, room), 0)
    mean = tl.zeros([FRAMES], tl.float32)
    for start in range(first, last, ROWS):
        rows = start + tl.arange(0, ROWS).to(tl.int64)
        differs = _differences(logits, sums, rows, rows < last, frames, is_frame, room, base)
        mean += tl.sum(differs, 0) / (last - first)
    squares = tl.zeros([FRAMES], tl.float32)
    for start in range(first, last, ROWS):
        rows = start + tl.arange(0, ROWS).to(tl.int64)
        differs = _differences(logits, sums, rows, rows < last, frames, is_frame, room, base)
        differs = tl.where((rows < last)[:, None], differs - mean[None, :], 0.0)
        squares += tl.sum(differs * differs, 0)
    deviation = tl.sqrt(squares / (last - first))
    stands_out = deviation > 0.0  # no weight does, where all are equal or none is a number
    divisor = tl.where(stands_out, deviation, 1.0)
    for start in range(first, last, ROWS):
        rows = start + tl.arange(0, ROWS).to(tl.int64)
        is_row = rows < last
        differs = _differences(logits, sums, rows, is_row, frames, is_frame, room, base)
        salience = (differs - mean[None, :]) / divisor[None, :]
        salience = tl.where(stands_out[None, :], salience, 0.0)
        places = logits + rows[:, None] * room + frames[None, :]
        tl.store(places, salience, mask=is_row[:, None] & is_frame[None, :])


@triton.jit
def _near(own_rows, frames, away: tl.constexpr, count, is_mirrored, is_own):
    """Values [ROWS, FRAMES] so many frames away, mirrored at both ends."""
    seen = tl.abs(frames + away)
    seen = tl.where(seen >= count, 2 * (count - 1) - seen, seen)
    seen = tl.where(is_mirrored, seen, frames)
    return tl.load(own_rows + seen[None, :], mask=is_own, other=0.0)


@triton.jit(do_not_specialize=["num_rows", "room", "num_heads"])
def _smooth_kernel(
    salience, starts, frame_counts, scores, num_rows, room, share, num_heads,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, FRAMES: tl.constexpr,
):  # fmt: skip
    """A program has all heads of ROWS rows and FRAMES frames of a sequence. Medians are of WIDTH
    frames, which are mirrored at both ends; with too few to mirror, values stay as they are."""
    sequence = tl.program_id(2)
    first, last = tl.load(starts + sequence), tl.load(starts + sequence + 1)
    first += tl.program_id(0) * ROWS
    count, begin = tl.load(frame_counts + sequence), tl.program_id(1) * FRAMES
    if (first >= last) | (begin >= count):
        return
    rows, frames = first + tl.arange(0, ROWS).to(tl.int64), begin + tl.arange(0, FRAMES)
    is_own = (rows < last)[:, None] & (frames < count)[None, :]
    is_mirrored = count > WIDTH // 2
    head_stride = tl.cast(num_rows, tl.int64) * room
    total = tl.zeros([ROWS, FRAMES], tl.float32)
    for _ in range(num_heads):
        own_rows = salience + rows[:, None] * room
        median = tl.zeros([ROWS, FRAMES], tl.float32)
        for i in tl.static_range(WIDTH):
            value = _near(own_rows, frames, i - WIDTH // 2, count, is_mirrored, is_own)
            rank = tl.zeros([ROWS, FRAMES], tl.int32)  # of the value among all, equal ones in turn
            for j in tl.static_range(WIDTH):
                other = _near(own_rows, frames, j - WIDTH // 2, count, is_mirrored, is_own)
                is_less = (other <= value) if j < i else (other < value)
                rank += is_less.to(tl.int32)
            median = tl.where(rank == WIDTH // 2, value, median)
        total += median
        salience += head_stride
    own = scores + rows[:, None] * room + frames[None, :]
    tl.store(own, total * share, mask=is_own)


def scores(
    queries: torch.Tensor,
    keys: Keys,
    pages: torch.Tensor,
    places: torch.Tensor,
    starts: torch.Tensor,
    frame_counts: torch.Tensor,
    most_rows: int,
    most_frames: int,
    *,
    scale: float,
    width: int,
    share: float,
) -> torch.Tensor:
    """[rows, `most_frames`] float32: how much more each row attends to each frame than others of
    its sequence do, the sum over heads times `share`. Undefined behind a sequence's frames.

    `queries` [all places, heads, head_dim] contiguous; `places` [rows] int32 of the rows' queries.
    `pages` [sequences, pages] int32 of the sequences' keys. Sequence i has rows from `starts[i]` to
    before `starts[i + 1]`, [sequences + 1] int32, at most `most_rows`, and `frame_counts[i]` int32
    frames, at most `most_frames`. `width` (odd): frames of a median.
    """
    num_rows, sequences = len(places), len(frame_counts)
    _, heads, head_dim = queries.shape
    logits = torch.empty(heads, num_rows, most_frames, device=queries.device)
    sums = torch.empty(heads, num_rows, 2, device=queries.device)
    out = torch.empty(num_rows, most_frames, device=queries.device)
    frame_blocks = triton.cdiv(most_frames, FRAMES)
    _weights_kernel[heads, triton.cdiv(most_rows, ROWS), sequences](
        queries, keys.first, keys.offsets, places, starts, frame_counts, pages, logits, sums,
        scale, num_rows, most_frames, pages.stride(0), keys.page_stride,
        HEADS=heads, HEAD_DIM=head_dim, D=max(16, triton.next_power_of_2(head_dim)),
        PAGE=keys.page_size, FRAME_STRIDE=keys.frame_stride, ROWS=ROWS, FRAMES=FRAMES,
    )  # fmt: skip
    _salience_kernel[heads, frame_blocks, sequences](
        logits, sums, starts, frame_counts, num_rows, most_frames, ROWS=ROWS, FRAMES=FRAMES
    )
    _smooth_kernel[
        triton.cdiv(most_rows, SMOOTH_ROWS), triton.cdiv(most_frames, SMOOTH_FRAMES), sequences
    ](
        logits, starts, frame_counts, out, num_rows, most_frames, share, heads,
        WIDTH=width, ROWS=SMOOTH_ROWS, FRAMES=SMOOTH_FRAMES,
    )  # fmt: skip
    return out
