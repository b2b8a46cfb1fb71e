"""Which attention a half needs: for the runners to select, and for `antiphon info` to show."""

import torch

from antiphon.attention.interface import AttentionSpec, Kind
from antiphon.config.options import DecoderOptions
from antiphon.families.halves import Half
from antiphon.kernels.formats import FLOAT8
from antiphon.layers.shard import Shard
from antiphon.runtime.device import Target


def encoder_spec(half: Half, target: Target, shard: Shard | None = None) -> AttentionSpec:
    """Full attention, of the heads of one rank."""
    return _spec("full", half, target, None, shard=shard)


def decoder_specs(
    half: Half, target: Target, options: DecoderOptions, shard: Shard | None = None
) -> list[AttentionSpec]:
    """Causal attention, then cross attention if the half has it; of the heads of one rank."""
    kinds: list[Kind] = ["causal", "cross"] if half.cross_attention else ["causal"]
    kv_dtype = FLOAT8 if options.kv_cache_dtype == "fp8" else None
    return [_spec(kind, half, target, options.kv_page_size, kv_dtype, shard) for kind in kinds]


def _spec(
    kind: Kind,
    half: Half,
    target: Target,
    page_size: int | None,
    kv_dtype: torch.dtype | None = None,
    shard: Shard | None = None,
) -> AttentionSpec:
    heads = (shard or Shard()).heads_of(half)
    return AttentionSpec(
        kind=kind,
        num_heads=heads.queries.count,
        num_kv_heads=heads.kv.count,
        head_dim=half.attention_head_dim,
        scale=half.attention_scale,
        dtype=target.dtype,
        device=target.device,
        bias=half.relative_bias and kind != "cross",
        score_cap=half.score_cap,
        window_bias=half.window_bias and kind == "full",
        page_size=page_size,
        kv_dtype=kv_dtype,
        ragged=kind == "full" and not half.equal_windows,
    )
