"""The attention of a decoder's steps: causal, and cross where the decoder has it."""

from typing import Self

from antiphon.attention.interface import PagedAttention, PlannedAttention
from antiphon.attention.selection import select_paged
from antiphon.attention.specs import decoder_specs
from antiphon.config.options import DecoderOptions
from antiphon.decoder.step_tensors import StepInputs
from antiphon.families.halves import Half
from antiphon.layers.shard import Shard
from antiphon.runtime.device import Target

# Causal and cross, as they are planned for one step.
PlannedAttentions = tuple[PlannedAttention[object], PlannedAttention[object] | None]


class StepAttention:
    """One backend, and its objects for both kinds."""

    def __init__(
        self, causal: PagedAttention[object], cross: PagedAttention[object] | None
    ) -> None:
        self.causal, self.cross = causal, cross

    @classmethod
    def select(
        cls, half: Half, target: Target, options: DecoderOptions, shard: Shard | None = None
    ) -> Self:
        """For the heads of one rank. Raises AttentionBackendError."""
        specs = decoder_specs(half, target, options, shard)
        causal, *cross = select_paged("decoder", options.attention_backend, specs)
        return cls(causal, cross[0] if cross else None)

    def plan(self, inputs: StepInputs) -> PlannedAttentions:
        causal = PlannedAttention.of(self.causal, inputs.causal)
        if self.cross is None:
            return causal, None
        return causal, PlannedAttention.of(self.cross, inputs.cross)

    def replan(self, attentions: PlannedAttentions, inputs: StepInputs) -> None:
        """See `PagedAttention.replan`."""
        causal, cross = attentions
        causal.replan(inputs.causal)
        if cross is not None:
            cross.replan(inputs.cross)
