"""The image encoders of vision-language models, with the projectors to their decoders.

A family that has a decoder beside one describes its encoder half by `vision_tower`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.family import Config
from antiphon.families.image_halves import ImageHalf, Projector, VitHalf
from antiphon.families.vit_like import vision_half

PREFIXES = ("vision_tower.", "model.vision_tower.", "vision_tower.vision_model.")
STORED = (
    "multi_modal_projector.layer_norm",
    "multi_modal_projector.linear_1",
    "multi_modal_projector.linear_2",
)
MOST_TILES = 13  # of an image, with the one that shows all of it (InternVL's processor)
# Names of the encoder's tensors in checkpoints that have a decoder as well.
TOWER_NAMES = (
    r"(model\.)?(vision_tower|multi_modal_projector|visual|image_newline)(\..*)?"
    r"|vision_model\..*|mlp1\..*"
)
TOWER_IGNORED = {
    r"(.*\.)?vision_tower\.(vision_model\.)?head\..*": "pooling: the decoder reads hidden states",
    r"(.*\.)?vision_tower\.(vision_model\.)?post_layernorm\..*": (
        "where an earlier layer's states are read, the norm behind the last one is not"
    ),
}


def vision_tower(config: Config) -> ImageHalf:
    """Of a whole model's settings. Raises as `vision_half`."""
    kind = config["model_type"]
    if kind not in TOWERS:
        raise UnsupportedModelError(
            f"vision-language models of model_type {kind!r} are not supported, "
            f"only {', '.join(TOWERS)}"
        )
    return TOWERS[kind](config)


def _qwen(config: Config) -> ImageHalf:
    names = {"qwen2_vl": "qwen2_vl_vision", "qwen2_5_vl": "qwen2_5_vl_vision"}
    return vision_half({**config["vision_config"], "model_type": names[config["model_type"]]})


def _internvl(config: Config) -> VitHalf:
    """Merges neighbouring patches; the class token goes."""
    merge = round(1 / config.get("downsample_ratio", 0.5))
    half = _tower(config)
    rows, columns = half.trained_grid
    projector = Projector(
        config["text_config"]["hidden_size"],
        config.get("projector_hidden_act", "gelu"),
        STORED,
        merge=merge,
        norm=True,
    )
    most = MOST_TILES * (rows // merge) * (columns // merge)
    return replace(half, projector=projector, class_rows=False, max_positions=most)


def _llava(config: Config) -> VitHalf:
    """One row for each patch of an image that is not tiled."""
    half = _tower(config)
    projector = Projector(
        config["text_config"]["hidden_size"],
        config.get("projector_hidden_act", "gelu"),
        STORED,
        bias=bool(config.get("multimodal_projector_bias", True)),
    )
    drops_class = config.get("vision_feature_select_strategy", "default") == "default"
    if drops_class != bool(half.class_tokens):
        raise UnsupportedModelError(
            "vision_feature_select_strategy: class tokens among a decoder's rows are not supported"
        )
    return replace(half, projector=projector, class_rows=False)


def _tower(config: Config) -> VitHalf:
    """The encoder up to the layer whose states are read: -1 is the last one, with its norm."""
    half = vision_half(config["vision_config"])
    assert isinstance(half, VitHalf)
    layer = config.get("vision_feature_layer", -1)
    if not isinstance(layer, int):
        raise UnsupportedModelError(f"vision_feature_layer={layer}: only one layer is supported")
    half = replace(half, prefixes=PREFIXES, pooling=None)
    if layer == -1:
        return half
    layers = layer if layer >= 0 else half.num_layers + layer + 1
    return replace(half, num_layers=layers, stored_layers=half.num_layers, final_norm=False)


TOWERS: Mapping[str, Callable[[Config], ImageHalf]] = {  # by model_type
    "internvl": _internvl,
    "llava": _llava,
    "qwen2_vl": _qwen,
    "qwen2_5_vl": _qwen,
}
