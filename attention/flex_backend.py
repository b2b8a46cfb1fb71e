"""FlexAttention (Dong et al. 2024): torch compiles the mask of packed sequences and T5's bias into one kernel."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from antiphon.attention.interface import AttentionBackend, AttentionSpec, FullBatch, PagedBatch
from antiphon.layers.positions import RelativeBias


@dataclass
class FlexPlan:
    mask: BlockMask
    position: torch.Tensor  # [tokens] of each token in its sequence


class FlexAttention(AttentionBackend):
    name = "flex"

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__(spec)
        on_gpu = spec.device.type == "cuda"
        self._attend: Any = torch.compile(flex_attention, dynamic=True) if on_gpu else flex_attention

    def plan(self, batch: FullBatch | PagedBatch) -> FlexPlan:
        assert isinstance(batch, FullBatch)
        tokens = int(batch.lengths.sum())
        at = torch.arange(tokens, device=self.spec.device)
        sequence = torch.searchsorted(batch.starts[1:].long(), at, right=True)

        def same_sequence(b: Any, h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return sequence[q] == sequence[k]

        mask = create_block_mask(same_sequence, None, None, tokens, tokens, device=str(self.spec.device))
        return FlexPlan(mask, at - batch.starts.long()[sequence])

    def run(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: FlexPlan, bias: RelativeBias | None = None
    ) -> torch.Tensor:
        heads_first = (each.transpose(0, 1)[None] for each in (q, k, v))
        found = self._attend(*heads_first, score_mod=_added(plan, bias), block_mask=plan.mask, scale=self.spec.scale)
        return found[0].transpose(0, 1).contiguous()


def _added(plan: FlexPlan, bias: RelativeBias | None) -> Any:
    if bias is None:
        return None
    table, position = bias.table(), plan.position
    reach = table.shape[1] // 2

    def add(score: torch.Tensor, b: Any, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return score + table[h, (position[k] - position[q]).clamp(-reach, reach) + reach]

    return add
