"""Which attention a half needs: what the runners ask the selection for, and what `antiphon info` shows."""

from antiphon.attention.interface import AttentionSpec, Kind
from antiphon.config.families import Half
from antiphon.layers.device import Target


def encoder_specs(half: Half, target: Target) -> list[AttentionSpec]:
    """Full attention."""
    return [_spec("full", half, target, None)]


def decoder_specs(half: Half, target: Target, page_size: int) -> list[AttentionSpec]:
    """Causal and cross attention, in this order."""
    return [_spec("causal", half, target, page_size), _spec("cross", half, target, page_size)]


def _spec(kind: Kind, half: Half, target: Target, page_size: int | None) -> AttentionSpec:
    return AttentionSpec(
        kind=kind,
        num_heads=half.num_heads,
        head_dim=half.head_dim,
        scale=half.attention_scale,
        dtype=target.dtype,
        device=target.device,
        bias=half.structure == "t5" and kind != "cross",
        page_size=page_size,
    )
