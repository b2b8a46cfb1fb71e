"""Qwen2-VL (Wang et al. 2024): images of any size, merged patches in the prompt of Qwen2, whose
positions are by frame, row and column."""

from antiphon.families.family import Config
from antiphon.families.image_halves import Projector, QwenVisionHalf
from antiphon.families.vision_language import vision_language

MOST_ROWS = 16_384  # of one image: what the published processor allows
NORM_EPS = 1e-6
PREFIXES = ("visual.", "model.visual.")
PROJECTOR = ("visual.merger.ln_q", "visual.merger.mlp.0", "visual.merger.mlp.2")


def _encoder(config: Config) -> QwenVisionHalf:
    vision = config["vision_config"]
    size, heads = vision["embed_dim"], vision["num_heads"]
    return QwenVisionHalf(
        hidden_size=size,
        num_layers=vision["depth"],
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=size // heads,
        attention_scale=(size // heads) ** -0.5,
        ffn_size=int(size * vision["mlp_ratio"]),
        activation=vision["hidden_act"],
        max_positions=MOST_ROWS,
        channels=vision["in_channels"],
        patch_size=vision["patch_size"],
        norm_eps=NORM_EPS,
        naming="qwen2_vl",
        prefixes=PREFIXES,
        projector=Projector(
            output_size=vision["hidden_size"],
            activation="gelu",
            stored=PROJECTOR,
            merge=vision["spatial_merge_size"],
            norm=True,
            norm_eps=NORM_EPS,
        ),
        frames=vision["temporal_patch_size"],
        rotary_theta=10_000.0,
        gated=False,
    )


FAMILY = vision_language("qwen2_vl", "Qwen2VLForConditionalGeneration", _encoder)
