"""T5Gemma (Zhang et al. 2025): an encoder and a decoder, both adapted from Gemma 2."""

from collections.abc import Mapping
from typing import Any

from antiphon.families.family import BFLOAT16_TRAINED, Config, Family
from antiphon.families.rotary import Rotary
from antiphon.families.t5gemma_half import T5GemmaHalf
from antiphon.families.tensor_names import LLAMA_IGNORED, Side


def _describe(config: Config, side: Side) -> T5GemmaHalf:
    own = config[side]
    heads, head_dim = own["num_attention_heads"], own["head_dim"]
    return T5GemmaHalf(
        side=side,
        hidden_size=own["hidden_size"],
        num_layers=own["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=own["num_key_value_heads"],
        head_dim=head_dim,
        attention_scale=own["query_pre_attn_scalar"] ** -0.5,
        ffn_size=own["intermediate_size"],
        vocab_size=own["vocab_size"],
        activation=own["hidden_activation"],
        max_positions=_positions(own),
        norm_eps=own["rms_norm_eps"],
        rotary=Rotary.of(own, head_dim),
        projection_bias=bool(own.get("attention_bias", False)),
        score_cap=own["attn_logit_softcapping"],
        logits_cap=own["final_logit_softcapping"],
        cross_size=config["encoder"]["hidden_size"],
    )


def _positions(own: Mapping[str, Any]) -> int:
    """As many as a token of any layer sees: beyond the window of those layers that have one, no
    backend attends right."""
    positions: int = own["max_position_embeddings"]
    if "sliding_attention" in own["layer_types"] and own.get("sliding_window"):
        return min(positions, own["sliding_window"])
    return positions


FAMILY = Family(
    name="t5gemma",
    architectures=("T5GemmaForConditionalGeneration",),
    input="text",
    describe=_describe,
    ignored={
        **LLAMA_IGNORED,
        r"lm_head\.out_proj\.weight": "the head is the embedding where config.json ties them",
    },
    too_narrow=BFLOAT16_TRAINED,
)
