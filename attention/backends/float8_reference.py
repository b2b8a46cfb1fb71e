"""What `kernels/float8_attention.py` computes, in torch: for CPUs and for tests. It is slower than
attention without float8, and shows what float8 costs in accuracy."""

import torch
from torch.nn import functional as F

from antiphon.kernels.formats import (
    FLOAT8,
    FLOAT8_BLOCK,
    FLOAT8_MAX,
    FLOAT8_WEIGHTS,
    SMALLEST_SCALE,
)


def rounded(x: torch.Tensor) -> torch.Tensor:
    """[sequences, heads, tokens, head_dim] as float8 holds it with a scale for each block of
    tokens and head; float32."""
    tokens = x.shape[2]
    blocks = F.pad(x.float(), (0, 0, 0, -tokens % FLOAT8_BLOCK)).unflatten(2, (-1, FLOAT8_BLOCK))
    scale = (blocks.abs().amax((3, 4), keepdim=True) / FLOAT8_MAX).clamp_min(SMALLEST_SCALE)
    scaled = (blocks / scale).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8).float()
    return (scaled * scale).flatten(2, 3)[:, :, :tokens]


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """[sequences, heads, tokens, head_dim]; `k`, `v` may have fewer heads. `mask` [sequences, 1, 1,
    tokens] bool: tokens that are there, of queries as of keys; None: all."""
    if mask is not None:
        is_token = mask.transpose(2, 3)
        q, k, v = (part.masked_fill(~is_token, 0.0) for part in (q, k, v))
    shared, dtype = q.shape[1] // k.shape[1], q.dtype
    q, k, v = rounded(q), *(rounded(part).repeat_interleave(shared, 1) for part in (k, v))
    scores = (q @ k.transpose(2, 3)) * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    attended = (weights * FLOAT8_WEIGHTS).to(FLOAT8).float() / FLOAT8_WEIGHTS @ v
    return (attended / weights.sum(-1, keepdim=True)).to(dtype)
