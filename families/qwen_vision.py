"""The vision encoders of Qwen2-VL (Wang et al. 2024) and Qwen2.5-VL (Bai et al. 2025)."""

from typing import Any

from antiphon.families.family import Config
from antiphon.families.image_halves import Projector
from antiphon.families.qwen_vision_half import QwenVisionHalf

NORM_EPS = 1e-6
MOST_ROWS = 16_384  # of the largest image or video that their processors make by default
MERGER = ("", "merger.mlp.0", "merger.mlp.2")
PREFIXES = ("visual.", "model.visual.", "")


def qwen2_vl(config: Config) -> QwenVisionHalf:
    size = config["embed_dim"]
    return QwenVisionHalf(
        **_shared(config, size, config["hidden_size"]),
        ffn_size=int(size * config["mlp_ratio"]),
        activation=config.get("hidden_act", "quick_gelu"),
        norm="layer",
        gated=False,
    )


def qwen2_5_vl(config: Config) -> QwenVisionHalf:
    merged_patch = config["patch_size"] * config["spatial_merge_size"]
    return QwenVisionHalf(
        **_shared(config, config["hidden_size"], config["out_hidden_size"]),
        ffn_size=config["intermediate_size"],
        activation=config.get("hidden_act", "silu"),
        norm="rms",
        gated=True,
        window=config["window_size"] // merged_patch,
        full_layers=tuple(config["fullatt_block_indexes"]),
    )


def _shared(config: Config, size: int, output_size: int) -> dict[str, Any]:
    heads, merge = config["num_heads"], config["spatial_merge_size"]
    rope = config.get("rope_parameters") or {}
    return {
        "hidden_size": size,
        "num_layers": config["depth"],
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": size // heads,
        "attention_scale": (size // heads) ** -0.5,
        "norm_eps": NORM_EPS,
        "channels": config.get("in_channels", config.get("in_chans", 3)),
        "patch_size": config["patch_size"],
        "frames": config["temporal_patch_size"],
        "rotary_theta": float(rope.get("rope_theta", 10_000.0)),
        "max_positions": MOST_ROWS,
        "naming": "qwen2_vl",
        "prefixes": PREFIXES,
        "projector": Projector(
            output_size,
            "gelu",
            MERGER,
            merge=merge,
            inner_size=size * merge**2,
            prefixes=PREFIXES,
        ),
    }
