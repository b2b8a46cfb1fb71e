"""Which attention a half needs: for the runners to select, and for `antiphon info` to show."""

from dataclasses import replace

import torch

from antiphon.attention.interface import AttentionSpec, Kind
from antiphon.config.errors import ConfigurationError
from antiphon.config.options import DecoderOptions, EncoderOptions
from antiphon.families.halves import Half
from antiphon.kernels.formats import FLOAT8
from antiphon.layers.shard import Shard
from antiphon.runtime.device import Target

DEFAULT_OPTIONS = EncoderOptions()


def encoder_spec(
    half: Half,
    target: Target,
    shard: Shard | None = None,
    options: EncoderOptions = DEFAULT_OPTIONS,
) -> AttentionSpec:
    """Full attention, as `options` want it; of the heads of one rank. Raises ConfigurationError
    where they want float8 of a half whose heads have more features than numbers of the model's."""
    if options.attention_dtype != "fp8":
        return _spec("full", half, target, None, shard=shard)
    if half.attention_head_dim != half.head_dim:
        raise ConfigurationError(
            f"encoder_attention_dtype='fp8' is not possible for a {half.structure} encoder: "
            "a feature of its heads keeps empty tiles apart, and outgrows the others. Leave it out"
        )
    return _spec("full", half, target, None, FLOAT8, shard)


def check_cross_attention(half: Half, options: DecoderOptions) -> None:
    """Raises ConfigurationError if `half`, a decoder, cannot attend to hidden states and `options`
    want it to."""
    if options.attends_to_states and half.needs_keys:
        raise ConfigurationError(
            f"cross_attention='latent' is not possible for a {half.structure} decoder: "
            f"{half.needs_keys}. Leave it out, or give 'kv'"
        )


def decoder_specs(
    half: Half, target: Target, options: DecoderOptions, shard: Shard | None = None
) -> list[AttentionSpec]:
    """Causal attention, then cross attention if the half has it, as `options` want it; of the heads
    of one rank. Raises as `check_cross_attention`."""
    check_cross_attention(half, options)
    kv_dtype = FLOAT8 if options.kv_cache_dtype == "fp8" else None
    sizes = (target, options.kv_page_size, kv_dtype, shard)
    causal = _spec("causal", half, *sizes)
    if not half.cross_attention:
        return [causal]
    if not options.attends_to_states:
        return [causal, _spec("cross", half, *sizes)]
    latent = _spec("latent", half, *sizes)
    return [causal, replace(latent, num_kv_heads=1, head_dim=half.cross_size or half.hidden_size)]


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
        bias=half.relative_bias and kind in ("full", "causal"),
        score_cap=half.score_cap,
        window_bias=half.window_bias and kind == "full",
        page_size=page_size,
        kv_dtype=kv_dtype,
        ragged=kind == "full" and not half.equal_windows,
    )
