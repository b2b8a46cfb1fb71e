"""Moonshine (Jeffries et al. 2024): clips of any length, without a spectrogram, for live captions
on small machines."""

from typing import Any

from antiphon.families.audio_config import WaveformConfig
from antiphon.families.family import Config, Family
from antiphon.families.moonshine_half import MoonshineEncoderHalf, MoonshineHalf
from antiphon.families.rotary import Rotary
from antiphon.families.tensor_names import TIED_HEAD, Side


def _describe(config: Config, side: Side) -> MoonshineHalf:
    size, heads = config["hidden_size"], config[f"{side}_num_attention_heads"]
    head_dim = config.get("head_dim") or size // heads
    shared: dict[str, Any] = {
        "side": side,
        "hidden_size": size,
        "num_layers": config[f"{side}_num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": config.get(f"{side}_num_key_value_heads") or heads,
        "head_dim": head_dim,
        "attention_scale": head_dim**-0.5,
        "ffn_size": config["intermediate_size"],
        "activation": config[f"{side}_hidden_act"],
        "rotary": Rotary.of({"partial_rotary_factor": 0.9, **config}, head_dim),
        "qkv_bias": bool(config.get("attention_bias", False)),
    }
    if side == "encoder":
        return MoonshineEncoderHalf(vocab_size=0, max_positions=WaveformConfig().tokens, **shared)
    return MoonshineHalf(
        vocab_size=config["vocab_size"], max_positions=config["max_position_embeddings"], **shared
    )


FAMILY = Family(
    name="moonshine",
    architectures=("MoonshineForConditionalGeneration",),
    input="audio",
    describe=_describe,
    ignored=TIED_HEAD,
)
