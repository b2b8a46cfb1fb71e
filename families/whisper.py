"""Whisper (Radford et al. 2022): an audio encoder of its own, and BART's decoder."""

from typing import Any

from antiphon.families.family import Config, Family
from antiphon.families.halves import BartHalf, WhisperEncoderHalf
from antiphon.families.tensor_names import TIED_HEAD, Side


def _describe(config: Config, side: Side) -> BartHalf:
    size, heads = config["d_model"], config[f"{side}_attention_heads"]
    shared: dict[str, Any] = {
        "side": side,
        "hidden_size": size,
        "num_layers": config[f"{side}_layers"],
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": size // heads,
        "attention_scale": (size // heads) ** -0.5,
        "ffn_size": config[f"{side}_ffn_dim"],
        "activation": config.get("activation_function", "gelu"),
        "pre_norm": True,
        "embedding_norm": False,
        "positions": "learned",  # the encoder's are sinusoids, which the checkpoint stores
        "position_offset": 0,
        "embedding_scale": 1.0,
        "key_bias": False,
    }
    if side == "decoder":
        return BartHalf(
            vocab_size=config["vocab_size"], max_positions=config["max_target_positions"], **shared
        )
    return WhisperEncoderHalf(
        vocab_size=0,
        max_positions=config["max_source_positions"],
        mel_bins=config.get("num_mel_bins", 80),
        **shared,
    )


FAMILY = Family(
    name="whisper",
    architectures=("WhisperForConditionalGeneration",),
    input="audio",
    describe=_describe,
    ignored=TIED_HEAD,
)
