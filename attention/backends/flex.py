"""FlexAttention (Dong et al. 2024): torch compiles the mask of packed sequences and T5's bias into one kernel.

What is compiled has a fixed shape: batches are padded to a power of two, and each such size is compiled
once. (Compiled for any length, the kernel's bias can't be lowered by some versions of torch, and compiled
for each length, torch gives up after a few.) Blocks of padding are masked out, so they cost no products.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from antiphon.attention.interface import AttentionBackend, AttentionSpec, FullBatch, PagedBatch
from antiphon.layers.positions import RelativeBias

LEAST_TOKENS = 512  # up to 65536 that is eight sizes, as many as torch compiles of one function


def padded_size(tokens: int) -> int:
    return max(LEAST_TOKENS, 1 << (tokens - 1).bit_length())


@dataclass
class FlexPlan:
    mask: BlockMask
    position: torch.Tensor  # [padded tokens] of each token in its sequence


class FlexAttention(AttentionBackend):
    name = "flex"

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__(spec)
        self._attend: Any = _compiled() if spec.device.type == "cuda" else flex_attention

    def plan(self, batch: FullBatch | PagedBatch) -> FlexPlan:
        assert isinstance(batch, FullBatch)
        size = padded_size(int(batch.lengths.sum()))
        at = torch.arange(size, device=self.spec.device)
        # Padding is one sequence more: it sees itself, and nobody sees it.
        sequence = torch.searchsorted(batch.starts[1:].long(), at, right=True)

        def same_sequence(b: Any, h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return sequence[q] == sequence[k]

        mask = create_block_mask(
            same_sequence, None, None, size, size, device=str(self.spec.device)
        )
        return FlexPlan(mask, at - batch.starts.long()[sequence])

    def run(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        plan: FlexPlan,
        bias: RelativeBias | None = None,
    ) -> torch.Tensor:
        padded = (self._padded(each, len(plan.position)) for each in (q, k, v))
        out = self._attend(
            *padded, score_mod=_added(plan, bias), block_mask=plan.mask, scale=self.spec.scale
        )
        return out[0].transpose(0, 1)[: len(q)].contiguous()

    @staticmethod
    def _padded(x: torch.Tensor, size: int) -> torch.Tensor:
        """[tokens, heads, head_dim] -> [1, heads, size, head_dim], always laid out alike."""
        padded = x.new_zeros(size, *x.shape[1:])
        padded[: len(x)] = x
        return padded.transpose(0, 1)[None]


def _compiled() -> Any:
    """torch counts what it compiles by code object. Each backend gets one of its own, so that another
    engine's sizes in the same process don't count here."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> Any:
        return flex_attention(q, k, v, **options)

    attend.__code__ = attend.__code__.replace(co_name="attend")
    return torch.compile(attend, dynamic=False)


def _added(plan: FlexPlan, bias: RelativeBias | None) -> Any:
    if bias is None:
        return None
    table, position = bias.table(), plan.position
    reach = table.shape[1] // 2

    def add(
        score: torch.Tensor, b: Any, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor
    ) -> torch.Tensor:
        return score + table[h, (position[k] - position[q]).clamp(-reach, reach) + reach]

    return add
