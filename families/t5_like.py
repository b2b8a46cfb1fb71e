"""Families of T5's structure."""

from dataclasses import replace
from functools import partial

from antiphon.families.family import BFLOAT16_TRAINED, Config, Family
from antiphon.families.halves import T5Half
from antiphon.families.tensor_names import T5_IGNORED, Side


def t5_like(name: str, *architectures: str, scales_tied_head: bool) -> Family:
    """`scales_tied_head`: hidden states are scaled before a head that is the embedding's matrix."""
    return Family(
        name=name,
        architectures=architectures,
        input="text",
        describe=partial(_describe, scales_tied_head),
        ignored=T5_IGNORED,
        too_narrow=BFLOAT16_TRAINED,
    )


def t5_encoder(name: str, *architectures: str) -> Family:
    """Checkpoints of the encoder alone, as image generators and embeddings of texts have them."""
    return replace(
        t5_like(name, *architectures, scales_tied_head=False),
        has_decoder=False,
        ignored={},
    )


def _describe(scales_tied_head: bool, config: Config, side: Side) -> T5Half:
    num_layers = config["num_layers"]
    if side == "decoder":
        num_layers = config.get("num_decoder_layers") or num_layers
    tied = config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True))
    return T5Half(
        side=side,
        hidden_size=config["d_model"],
        num_layers=num_layers,
        num_heads=config["num_heads"],
        num_kv_heads=config["num_heads"],
        head_dim=config["d_kv"],
        ffn_size=config["d_ff"],
        vocab_size=config["vocab_size"],
        # transformers makes both of "feed_forward_proj" where config.json lacks them.
        activation=config["dense_act_fn"],
        gated=config["is_gated_act"],
        bias_buckets=config.get("relative_attention_num_buckets", 32),
        bias_max_distance=config.get("relative_attention_max_distance", 128),
        norm_eps=config.get("layer_norm_epsilon", 1e-6),
        logits_scale=config["d_model"] ** -0.5
        if side == "decoder" and scales_tied_head and tied
        else 1.0,
    )
