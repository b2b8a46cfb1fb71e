"""Vision transformers of all families: what their config.json says, alone or within a model that
has a decoder as well."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.family import Config, Family
from antiphon.families.image_halves import ImageHalf, VitHalf
from antiphon.families.qwen_vision import qwen2_5_vl, qwen2_vl
from antiphon.families.sizes import pair, square
from antiphon.families.swin_half import swin
from antiphon.families.tensor_names import Side

# Tensors of published checkpoints that no encoder needs, and why.
VISION_IGNORED = {
    r"(.*\.)?embeddings\.position_ids": "computed: positions are numbered from 0",
    r"(.*\.)?relative_position_index": "computed from the size of windows",
    r"(.*\.)?embeddings\.mask_token": "it stands for patches that training hides",
    r"text_model\..*": "the text encoder beside the vision encoder is not run",
    r"text_projection\..*": "it is behind the text encoder",
    r"logit_(scale|bias)": "it compares texts with images",
}


def siglip(config: Config) -> VitHalf:
    return VitHalf(
        **_sizes(config),
        naming="siglip",
        prefixes=("vision_model.", ""),
        class_tokens=0,
        pooling="attention" if config.get("vision_use_head", True) else None,
    )


def clip(config: Config) -> VitHalf:
    return VitHalf(
        **_sizes(config),
        naming="siglip",
        prefixes=("vision_model.", ""),
        class_tokens=1,
        patch_bias=False,
        embedding_norm=True,
        final_norm=False,
        pooling="first_normed",
    )


def vit(config: Config, class_tokens: int = 1) -> VitHalf:
    bias = bool(config.get("qkv_bias", True))
    return VitHalf(
        **_sizes(config),
        naming="vit",
        class_tokens=class_tokens,
        qkv_bias=bias,
        pooling="first_tanh",
    )


def beit(config: Config) -> VitHalf:
    """Raises UnsupportedModelError for images that are not square, whose biases transformers reads
    with rows and columns exchanged."""
    height, width = pair(config["image_size"])
    if height != width:
        raise UnsupportedModelError(
            f"images of {height} x {width} pixels: of BEiT, only square ones are supported"
        )
    mean = bool(config.get("use_mean_pooling", True))
    return VitHalf(
        **_sizes(config),
        naming="beit",
        class_tokens=1,
        key_bias=False,
        shared_bias=bool(config.get("use_shared_relative_position_bias", False)),
        layer_bias=bool(config.get("use_relative_position_bias", False)),
        layer_scale=config.get("layer_scale_init_value", 0.1) > 0,
        positions=bool(config.get("use_absolute_position_embeddings", False)),
        final_norm=not mean,
        pooling="patches_normed" if mean else "first",
    )


def internvl(config: Config) -> VitHalf:
    bias = bool(config.get("attention_bias", False))
    return VitHalf(
        **_sizes(config),
        naming="internvl",
        class_tokens=1,
        any_size=True,
        norm="rms" if config.get("norm_type") == "rms_norm" else "layer",
        qkv_bias=bias,
        qk_norm=bool(config.get("use_qk_norm", False)),
        layer_scale=True,
        positions=bool(config.get("use_absolute_position_embeddings", True)),
        final_norm=not config.get("use_mean_pooling", True),
    )


KINDS: Mapping[str, Callable[[Config], ImageHalf]] = {  # by model_type
    "siglip_vision_model": siglip,
    "clip_vision_model": clip,
    "vit": vit,
    "deit": partial(vit, class_tokens=2),
    "beit": beit,
    "internvl_vision": internvl,
    "qwen2_vl_vision": qwen2_vl,
    "qwen2_5_vl_vision": qwen2_5_vl,
    "swin": swin,
    "donut-swin": partial(swin, final_norm=False),
}


def vision_half(config: Config) -> ImageHalf:
    """Of an encoder's own settings: a config.json of its own, or a part of a larger one.

    Raises UnsupportedModelError for an encoder that is not known, and KeyError, TypeError or
    ValueError where a size is missing or no number.
    """
    kind = config["model_type"]
    if kind not in KINDS:
        raise UnsupportedModelError(
            f"vision encoders of model_type {kind!r} are not supported, only {', '.join(KINDS)}"
        )
    return KINDS[kind](config)


def encoder_alone(
    name: str, *architectures: str, describe: Callable[[Config], ImageHalf] = vision_half
) -> Family:
    """A family of vision encoders without a decoder."""

    return Family(
        name=name,
        architectures=architectures,
        input="image",
        describe=partial(_encoder, describe),
        has_decoder=False,
        encoder_names=".*",
        ignored=VISION_IGNORED,
    )


def _encoder(describe: Callable[[Config], ImageHalf], config: Config, side: Side) -> ImageHalf:
    assert side == "encoder"
    return describe(config)


def _sizes(config: Config) -> dict[str, Any]:
    """What all of them have."""
    size, heads = config["hidden_size"], config["num_attention_heads"]
    height, width = pair(config["image_size"])
    patch_size = square(config["patch_size"])
    head_dim = config.get("head_dim") or size // heads
    tokens = (height // patch_size) * (width // patch_size) + 2
    return {
        "hidden_size": size,
        "num_layers": config["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": head_dim,
        "attention_scale": head_dim**-0.5,
        "ffn_size": config["intermediate_size"],
        "activation": config.get("hidden_act", "gelu"),
        "norm_eps": config.get("layer_norm_eps", 1e-6),
        "channels": config.get("num_channels", 3),
        "patch_size": patch_size,
        "image_size": (height, width),
        "max_positions": tokens,
    }
