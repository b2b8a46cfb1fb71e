"""Llama 3.2 Vision (Grattafiori et al. 2024, section 7): Llama's decoder attends, in some layers,
to the tiles of images, which a vision transformer has read."""

from antiphon.families.family import Config, Family
from antiphon.families.halves import Half
from antiphon.families.image_halves import Projector
from antiphon.families.llama_like import llama_half
from antiphon.families.mllama_half import MllamaHalf, MllamaVisionHalf
from antiphon.families.sizes import square
from antiphon.families.tensor_names import LLAMA_IGNORED, Side

PROJECTOR = ("", "multi_modal_projector", "")


def _describe(config: Config, side: Side) -> Half:
    return _encoder(config) if side == "encoder" else _decoder(config)


def _encoder(config: Config) -> MllamaVisionHalf:
    vision = config["vision_config"]
    size, heads = vision["hidden_size"], vision["attention_heads"]
    tile, patch = square(vision["image_size"]), square(vision["patch_size"])
    most_tiles, global_layers = vision["max_num_tiles"], vision["num_global_layers"]
    return MllamaVisionHalf(
        hidden_size=size,
        num_layers=vision["num_hidden_layers"] + global_layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=size // heads,
        attention_scale=(size // heads) ** -0.5,
        ffn_size=vision["intermediate_size"],
        activation=vision.get("hidden_act", "gelu"),
        max_positions=most_tiles * ((tile // patch) ** 2 + 1),
        channels=vision.get("num_channels", 3),
        patch_size=patch,
        norm_eps=vision.get("norm_eps", 1e-5),
        naming="mllama",
        prefixes=("vision_model.", "model.vision_model."),
        projector=Projector(config["text_config"]["hidden_size"], None, PROJECTOR),
        tile=tile,
        most_tiles=most_tiles,
        arrangements=tuple((down, across) for down, across in vision["supported_aspect_ratios"]),
        global_layers=global_layers,
        feature_layers=tuple(vision["intermediate_layers_indices"]),
    )


def _decoder(config: Config) -> MllamaHalf:
    text = config["text_config"]
    llama = llama_half(text, qkv_bias=False, head_norms=False)
    return MllamaHalf(**vars(llama), cross_layers=tuple(text["cross_attention_layers"]))


FAMILY = Family(
    name="mllama",
    architectures=("MllamaForConditionalGeneration",),
    input="image",
    encoder_names=r"(model\.)?(vision_model|multi_modal_projector)\b.*",
    describe=_describe,
    ignored=LLAMA_IGNORED,
)
