"""FlexAttention (Dong et al. 2024): packed sequences' mask and T5's bias, compiled into one kernel.

The compiled kernel has a fixed shape: batches are padded to a power of two, and each
such size is compiled once. (Compiled for any length, the kernel's bias can't be lowered
by some versions of torch, and compiled for each length, torch gives up after a few.)
Padding is masked out in whole blocks, so it costs no products.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from antiphon.attention.interface import AttentionSpec, FullAttention, FullBatch
from antiphon.layers.positions import RelativeBias

LEAST_TOKENS = 512  # up to 65536 that is eight sizes, as many as torch compiles of one function


def padded_size(tokens: int) -> int:
    return max(LEAST_TOKENS, 1 << (tokens - 1).bit_length())


@dataclass(frozen=True)
class FlexMetadata:
    mask: BlockMask
    position: torch.Tensor  # [padded tokens] of each token in its sequence


class FlexFull(FullAttention[FlexMetadata]):
    name = "flex"

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__(spec)
        self._attend: Any = _compiled() if spec.device.type == "cuda" else flex_attention

    def plan(self, batch: FullBatch) -> FlexMetadata:
        size = padded_size(int(batch.lengths.sum()))
        token = torch.arange(size, device=self.spec.device)
        # Padding forms one more sequence, which sees itself only.
        sequence = torch.searchsorted(batch.cu_seqlens[1:].long(), token, right=True)

        def same_sequence(b: Any, h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return sequence[q] == sequence[k]

        device = str(self.spec.device)
        mask = create_block_mask(same_sequence, None, None, size, size, device=device)
        return FlexMetadata(mask, token - batch.cu_seqlens.long()[sequence])

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        metadata: FlexMetadata,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        size = len(metadata.position)
        out = self._attend(
            _padded(q, size),
            _padded(k, size),
            _padded(v, size),
            score_mod=_score_mod(metadata, bias),
            block_mask=metadata.mask,
            scale=self.spec.scale,
            enable_gqa=self.spec.num_kv_heads < self.spec.num_heads,
        )
        return out[0].transpose(0, 1)[: len(q)].contiguous()


def _padded(x: torch.Tensor, size: int) -> torch.Tensor:
    """[tokens, heads, head_dim] -> [1, heads, size, head_dim], always with the same strides."""
    padded = x.new_zeros(size, *x.shape[1:])
    padded[: len(x)] = x
    return padded.transpose(0, 1)[None]


def _compiled() -> Any:
    """A function of its own for each backend.

    torch counts compilations by code object: the sizes of another engine in this
    process don't count here. One kernel a size is compiled in this process: torch's
    pool of compiling processes would hold memory for as long as the worker lives, and
    it has been seen to hang.
    """

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> Any:
        return flex_attention(q, k, v, **options)

    attend.__code__ = attend.__code__.replace(co_name="attend")
    return torch.compile(attend, dynamic=False, options={"compile_threads": 1})


def _score_mod(metadata: FlexMetadata, bias: RelativeBias | None) -> Any:
    """The function that adds `bias` to a score, None without one."""
    if bias is None:
        return None
    table, position = bias.table(), metadata.position
    reach = table.shape[1] // 2

    def add(
        score: torch.Tensor, b: Any, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor
    ) -> torch.Tensor:
        return score + table[h, (position[k] - position[q]).clamp(-reach, reach) + reach]

    return add
