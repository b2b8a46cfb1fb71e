"""What both kernels for paged attention share: how keys are split and how splits are joined.

A launch is a grid of programs, one for each head, split and block of queries:

                       keys of one sequence, in pages
              | page 7  | page 2  | page 9  | page 4  |
    block 0   |     split 0       |      split 1      |   16 queries of the sequence, one head
    block 1   |     split 0       |      split 1      |   16 more
                        |                   |
                  partial, lse        partial, lse        float32, in the workspace
                        |                   |
                        +---- arrivals -----+             whichever program ends last joins them
                                  |
                                 out

A program reads the keys of its split one tile at a time, with a running softmax
(Milakov and Gimelshein 2018). With one split it writes `out` itself. Splits are there
to keep the whole device reading (Flash-Decoding, Dao et al. 2023); joining them takes
no second launch.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from antiphon.kernels.paged_launch import LEAST_KEYS as LEAST_KEYS_OF_A_SPLIT

LEAST_KEYS = tl.constexpr(LEAST_KEYS_OF_A_SPLIT)
LOG2_E = tl.constexpr(1.4426950408889634)
MINUS_INF = tl.constexpr(float("-inf"))


@triton.jit
def num_splits(keys, SPLITS: tl.constexpr):
    """Of the SPLITS that were launched, as many as these keys are worth."""
    return tl.maximum(tl.minimum(tl.cdiv(keys, LEAST_KEYS), SPLITS), 1)


@triton.jit
def key_offsets(
    table, keys, is_key, PAGE: tl.constexpr, KV_PAGE: tl.constexpr, KV_TOKEN: tl.constexpr
):
    """Where the pages of one sequence hold `keys`, in elements."""
    page = tl.load(table + keys // PAGE, mask=is_key, other=0).to(tl.int64)
    return page * KV_PAGE + (keys % PAGE) * KV_TOKEN


@triton.jit
def finish(
    acc, highest, total,
    out, partial, partial_lse, arrivals,
    tokens, is_query, head, split, splits, num_tokens,
    OUT_TOKEN: tl.constexpr, OUT_HEAD: tl.constexpr,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Writes the output rows of `acc` [rows, D], or leaves them to the last of the splits.

    `highest` and `total` [rows] are the running softmax's maximum and sum, to base 2.
    """
    dims = tl.arange(0, D)
    is_output = is_query[:, None] & (dims < HEAD_DIM)[None, :]
    has_keys = total > 0.0  # a split may be empty
    total = tl.where(has_keys, total, 1.0)
    acc = acc / total[:, None]
    out_rows = out + (tokens * OUT_TOKEN + head * OUT_HEAD)[:, None] + dims[None, :]
    if splits == 1:
        tl.store(out_rows, acc.to(out.dtype.element_ty), mask=is_output)
    elif SPLITS > 1:
        row = (split * num_tokens + tokens) * HEADS + head
        tl.store(partial + row[:, None] * D + dims[None, :], acc, mask=is_output)
        tl.store(
            partial_lse + row,
            tl.where(has_keys, highest + tl.log2(total), MINUS_INF),
            mask=is_query,
        )
        tl.debug_barrier()  # every thread has written its part before this program has arrived
        if tl.atomic_add(arrivals, 1, sem="acq_rel") == splits - 1:
            tl.store(arrivals, 0)  # ready for the next launch
            highest = tl.where(is_query, MINUS_INF, 0.0)  # of rows past the queries: finite
            # `tokens * 0` makes the bound a block: Triton's interpreter takes no mask that was
            # made of scalars.
            for i in tl.static_range(SPLITS):
                row = (i * num_tokens + tokens) * HEADS + head
                is_split = is_query & (tokens * 0 + i < splits)
                lse = tl.load(partial_lse + row, mask=is_split, other=MINUS_INF)
                highest = tl.maximum(highest, lse)
            total = total * 0.0
            acc = acc * 0.0
            for i in tl.static_range(SPLITS):
                row = (i * num_tokens + tokens) * HEADS + head
                is_split = is_query & (tokens * 0 + i < splits)
                lse = tl.load(partial_lse + row, mask=is_split, other=MINUS_INF)
                weight = tl.exp2(lse - highest)
                total += weight
                part = tl.load(
                    partial + row[:, None] * D + dims[None, :],
                    mask=is_output & is_split[:, None],
                    other=0.0,
                )
                acc += weight[:, None] * part
            total = tl.where(is_query, total, 1.0)
            tl.store(out_rows, (acc / total[:, None]).to(out.dtype.element_ty), mask=is_output)


@dataclass(frozen=True)
class Workspace:
    """What splits leave for the one that joins them. `arrivals` is zero between launches."""

    partial: torch.Tensor  # [splits * tokens * heads * padded head_dim] float32
    lse: torch.Tensor  # [splits * tokens * heads] float32: log2 of the sum of exponentials
    arrivals: torch.Tensor  # [query blocks * heads] int32: splits that have ended

    @classmethod
    def make(
        cls, splits: int, tokens: int, blocks: int, heads: int, head_dim: int, device: torch.device
    ) -> "Workspace":
        """For launches of at most this size; `blocks` of queries, of all sequences together."""
        rows = _partial_rows(splits, tokens, heads)
        return cls(
            torch.empty(rows * padded(head_dim), dtype=torch.float32, device=device),
            torch.empty(rows, dtype=torch.float32, device=device),
            torch.zeros(blocks * heads, dtype=torch.int32, device=device),
        )

    def holds(self, splits: int, tokens: int, blocks: int, heads: int, head_dim: int) -> bool:
        """Whether it is large enough for such a launch."""
        rows = _partial_rows(splits, tokens, heads)
        return (
            len(self.partial) >= rows * padded(head_dim)
            and len(self.lse) >= rows
            and len(self.arrivals) >= blocks * heads
        )


def _partial_rows(splits: int, tokens: int, heads: int) -> int:
    return splits * tokens * heads if splits > 1 else 1


def padded(head_dim: int) -> int:
    """The power of two that a tile's rows have: at least 16, the tensor cores' least."""
    return max(16, triton.next_power_of_2(head_dim))
