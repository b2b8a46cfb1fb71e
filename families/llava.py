"""LLaVA (Liu et al. 2023): the patches of CLIP or SigLIP, projected, in the prompt of Llama or
Qwen2."""

from collections.abc import Sequence
from dataclasses import replace

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.any_resolution import AnyResolution
from antiphon.families.family import Config
from antiphon.families.image_halves import Projector, VitHalf
from antiphon.families.vision_language import vision_language
from antiphon.families.vit_like import clip, siglip

TOWERS = tuple(
    f"{model}vision_tower.{inner}" for model in ("", "model.") for inner in ("vision_model.", "")
)
PROJECTOR = ("", "multi_modal_projector.linear_1", "multi_modal_projector.linear_2")
DESCRIBED = {"clip_vision_model": clip, "siglip_vision_model": siglip}  # by model_type


def llava_encoder(config: Config) -> VitHalf:
    """CLIP has a class token, which is left out by default, and a norm behind its positions."""
    vision = config["vision_config"]
    model_type = vision.get("model_type", "clip_vision_model")
    if model_type not in DESCRIBED:
        raise UnsupportedModelError(f"vision_config has model_type {model_type!r}")
    half = up_to_layer(DESCRIBED[model_type](vision), config.get("vision_feature_layer", -2))
    strategy = config.get("vision_feature_select_strategy", "default")
    if not half.class_tokens and strategy != "full":
        raise UnsupportedModelError(
            f"vision_feature_select_strategy={strategy!r} drops a patch: SigLIP has no class token"
        )
    return replace(
        half,
        final_norm=False,  # also behind the last layer
        prefixes=TOWERS,
        projector=Projector(
            output_size=config["text_config"]["hidden_size"],
            activation=config.get("projector_hidden_act", "gelu"),
            stored=PROJECTOR,
            bias=config.get("multimodal_projector_bias", True),
        ),
        class_rows=strategy == "full",
    )


def in_tiles(half: VitHalf, config: Config, most_tiles: int | None, alone: bool) -> VitHalf:
    """`half` for images of any resolution; see `AnyResolution`. Raises UnsupportedModelError."""
    if half.class_tokens and half.class_rows:
        raise UnsupportedModelError(
            "vision_feature_select_strategy='full': a class token is no patch"
        )
    tile, width = half.image_size
    if tile != width:
        raise UnsupportedModelError(f"tiles of {tile} x {width} pixels: only square ones")
    tiles = AnyResolution(
        resolutions=tuple((height, width) for height, width in config["image_grid_pinpoints"]),
        tile=tile,
        side=tile // half.patch_size,
        most_tiles=most_tiles,
        alone=alone,
    )
    return replace(half, tiles=tiles, max_positions=tiles.most_rows)


def up_to_layer(half: VitHalf, layer: int | Sequence[int]) -> VitHalf:
    """`half` without the layers behind number `layer`, whose output the decoder gets; -1 is the
    last one, with the norm behind it. Of several such layers, the decoder gets all outputs."""
    half = replace(half, pooling=None)
    if layer == -1:
        return half
    layers = layer if isinstance(layer, Sequence) else [layer]
    numbers = [_number(half, number) for number in layers]
    return replace(
        half,
        num_layers=max(numbers),
        stored_layers=half.num_layers,
        final_norm=False,
        feature_layers=tuple(numbers) if isinstance(layer, Sequence) else (),
    )


def _number(half: VitHalf, layer: int) -> int:
    """How many layers come before the output that transformers calls number `layer`: 0 is what the
    first one reads. Raises ValueError for one that does not exist."""
    number = half.num_layers + 1 + layer if layer < 0 else layer
    if not 0 <= number <= half.num_layers:
        raise ValueError(
            f"vision_feature_layer={layer}: the vision encoder has {half.num_layers} layers"
        )
    return number


FAMILY = vision_language("llava", "LlavaForConditionalGeneration", llava_encoder)
