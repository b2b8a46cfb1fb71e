"""Florence-2 (Xiao et al. 2024): an image and what is asked about it go through BART's encoder
together; BART's decoder answers."""

from collections.abc import Mapping
from dataclasses import replace

from antiphon.config.errors import UnsupportedModelError
from antiphon.families import bart
from antiphon.families.family import Config, Family
from antiphon.families.florence2_half import DavitStage, Florence2Half
from antiphon.families.halves import BartHalf, Half
from antiphon.families.tensor_names import BART_IGNORED, TIED_HEAD, Side

TEXT = "model.language_model."
STAGE_SETTINGS = (  # of vision_config, with one value for each stage
    "embed_dim", "depths", "num_heads", "num_groups", "patch_size", "patch_stride",
    "patch_padding", "patch_prenorm",
)  # fmt: skip


def _describe(config: Config, side: Side) -> Half:
    return _encoder(config) if side == "encoder" else _text(config, side)


def _text(config: Config, side: Side) -> BartHalf:
    half = bart.FAMILY.describe(config["text_config"], side)
    assert isinstance(half, BartHalf)
    return replace(half, prefix=TEXT)


def _encoder(config: Config) -> Florence2Half:
    vision, text = config["vision_config"], _text(config, "encoder")
    ratio = vision["mlp_ratio"]
    if vision["projection_dim"] != text.hidden_size:
        raise UnsupportedModelError(
            f"projection_dim={vision['projection_dim']}: the text encoder has "
            f"{text.hidden_size} features"
        )
    stages = tuple(
        DavitStage(size, blocks, heads, groups, patch, stride, padding, first, int(size * ratio))
        for size, blocks, heads, groups, patch, stride, padding, first in zip(
            *(vision[name] for name in STAGE_SETTINGS), strict=True
        )
    )
    return Florence2Half(
        hidden_size=text.hidden_size,
        num_layers=text.num_layers,
        num_heads=text.num_heads,
        num_kv_heads=text.num_kv_heads,
        head_dim=text.head_dim,
        attention_scale=text.attention_scale,
        ffn_size=text.ffn_size,
        vocab_size=text.vocab_size,
        activation=text.activation,
        pre_norm=text.pre_norm,
        max_positions=text.max_positions,
        channels=vision["in_channels"],
        patch_size=stages[0].patch,
        norm_eps=1e-5,
        naming="florence2",
        prefixes=("model.",),
        text=text,
        stages=stages,
        window=vision["window_size"],
        qkv_bias=vision["qkv_bias"],
        tower_activation=vision["activation_function"],
        most_positions=vision["max_position_embeddings"],
    )


def _translate(config: Config) -> Config:
    """Raises UnsupportedModelError for the format of Florence-2's authors, whose tensors have other
    names."""
    vision = config.get("vision_config")
    if isinstance(vision, Mapping) and "dim_embed" in vision:
        raise UnsupportedModelError(
            "this is Florence-2 in its authors' format (vision_config has dim_embed): use the same "
            "model in transformers' format, such as florence-community/Florence-2-base"
        )
    return config


FAMILY = Family(
    name="florence2",
    architectures=("Florence2ForConditionalGeneration",),
    input="image_text",
    encoder_names=r"model\.(vision_tower|multi_modal_projector|language_model\.encoder)\..*",
    describe=_describe,
    ignored={
        **TIED_HEAD,
        **{rf"model\.language_model\.{pattern}": why for pattern, why in BART_IGNORED.items()},
        r"model\.multi_modal_projector\.visual_temporal_embed\.pos_idx_to_embed": (
            "computed: the first frame's row of a table of sines and cosines"
        ),
    },
    translate=_translate,
)
