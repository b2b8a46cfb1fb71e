"""Triton kernel that copies pages within the pools of all layers, in one launch.

torch needs two launches for each layer: a third of a step's time on the host, with thirty layers
and beam searches whose sequences part at every token.
"""

import torch
import triton
import triton.language as tl

MOST = 256  # rows at once: a program holds a few words of all of them
WORDS = 64  # of each, 4 bytes long


@triton.jit(do_not_specialize=["count"])
def _copy_pages_kernel(
    matrices, sources, targets, count, row_words, MOST: tl.constexpr, WORDS: tl.constexpr
):
    """A program copies WORDS words of all rows of one matrix. It reads all before it writes any:
    a row may be among both."""
    matrix = tl.load(matrices + tl.program_id(1)).to(tl.pointer_type(tl.int32))
    numbers, words = tl.arange(0, MOST), tl.program_id(0) * WORDS + tl.arange(0, WORDS)
    is_row = numbers < count
    source = tl.load(sources + numbers, mask=is_row, other=0) * row_words
    target = tl.load(targets + numbers, mask=is_row, other=0) * row_words
    inside = is_row[:, None] & (words < row_words)[None, :]
    values = tl.load(matrix + source[:, None] + words[None, :], mask=inside)
    tl.debug_barrier()
    tl.store(matrix + target[:, None] + words[None, :], values, mask=inside)


def copy_pages(
    matrices: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor, row_bytes: int
) -> None:
    """Copies rows `sources` [n] int64 to rows `targets` [n] int64, n <= MOST, of all `matrices`
    [m] int64: addresses of contiguous rows of `row_bytes`, a multiple of 4."""
    words = row_bytes // 4
    _copy_pages_kernel[triton.cdiv(words, WORDS), len(matrices)](
        matrices, sources, targets, len(sources), words, MOST=MOST, WORDS=WORDS, num_warps=8
    )
