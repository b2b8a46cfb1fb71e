"""Families of Llama's structure: decoders of text alone."""

from functools import partial

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.family import Config, Family
from antiphon.families.halves import LlamaHalf
from antiphon.families.rotary import Rotary
from antiphon.families.tensor_names import LLAMA_IGNORED, Side


def llama_like(
    name: str, *architectures: str, qkv_bias: bool | None = None, head_norms: bool = False
) -> Family:
    """`qkv_bias`: of the projections that make queries, keys and values, and of no other; None: as
    config.json says in `attention_bias`, of all projections around attention. `head_norms`: see
    `LlamaHalf`."""
    return Family(
        name=name,
        architectures=architectures,
        input=None,
        describe=partial(_decoder, qkv_bias, head_norms),
        ignored=LLAMA_IGNORED,
    )


def _decoder(qkv_bias: bool | None, head_norms: bool, config: Config, side: Side) -> LlamaHalf:
    assert side == "decoder"
    return llama_half(config, qkv_bias, head_norms)


def llama_half(config: Config, qkv_bias: bool | None, head_norms: bool) -> LlamaHalf:
    """Of config.json, or of the part of it that describes the decoder; see `llama_like`."""
    if config.get("use_sliding_window"):
        raise UnsupportedModelError(
            "use_sliding_window: attention to the latest tokens alone is not supported"
        )
    heads, size = config["num_attention_heads"], config["hidden_size"]
    head_dim = config.get("head_dim") or size // heads
    bias = bool(config.get("attention_bias", False))
    return LlamaHalf(
        side="decoder",
        hidden_size=size,
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        attention_scale=head_dim**-0.5,
        ffn_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        activation=config.get("hidden_act", "silu"),
        max_positions=config["max_position_embeddings"],
        norm_eps=config.get("rms_norm_eps", 1e-6),
        rotary=Rotary.of(config, head_dim),
        qkv_bias=bias if qkv_bias is None else qkv_bias,
        output_bias=bias if qkv_bias is None else False,
        ffn_bias=bool(config.get("mlp_bias", False)),
        head_norms=head_norms,
    )
