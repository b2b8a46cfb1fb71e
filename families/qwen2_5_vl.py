"""Qwen2.5-VL (Bai et al. 2025): Qwen2-VL with windows, RMS norms and gated layers in its
encoder."""

from antiphon.families.family import Config
from antiphon.families.image_halves import Projector, QwenVisionHalf
from antiphon.families.qwen2_vl import MOST_ROWS, NORM_EPS, PREFIXES, PROJECTOR
from antiphon.families.vision_language import vision_language


def _encoder(config: Config) -> QwenVisionHalf:
    vision = config["vision_config"]
    size, heads = vision["hidden_size"], vision["num_heads"]
    patch_size, merge = vision["patch_size"], vision["spatial_merge_size"]
    return QwenVisionHalf(
        hidden_size=size,
        num_layers=vision["depth"],
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=size // heads,
        attention_scale=(size // heads) ** -0.5,
        ffn_size=vision["intermediate_size"],
        activation=vision["hidden_act"],
        max_positions=MOST_ROWS,
        channels=vision["in_channels"],
        patch_size=patch_size,
        norm="rms",
        norm_eps=NORM_EPS,
        naming="qwen2_vl",
        prefixes=PREFIXES,
        projector=Projector(
            output_size=vision["out_hidden_size"],
            activation="gelu",
            stored=PROJECTOR,
            merge=merge,
            norm=True,
            norm_eps=NORM_EPS,
        ),
        frames=vision["temporal_patch_size"],
        rotary_theta=10_000.0,
        gated=True,
        window=vision["window_size"] // patch_size // merge,
        full_layers=tuple(vision["fullatt_block_indexes"]),
    )


FAMILY = vision_language("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", _encoder)
