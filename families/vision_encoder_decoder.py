"""Vision encoders with the text decoders of other families, which attend to all that the encoder
makes of one image: TrOCR (Li et al. 2021) and others of transformers' VisionEncoderDecoderModel."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from antiphon.config.errors import UnsupportedModelError
from antiphon.families import bart, mbart, plbart
from antiphon.families.bart_like import bart_half
from antiphon.families.family import Config, Family
from antiphon.families.halves import BartHalf, Half
from antiphon.families.image_halves import ImageHalf, Projector
from antiphon.families.tensor_names import BART_IGNORED, Side
from antiphon.families.vit_like import VISION_IGNORED, vision_half

PROJECTION = "enc_to_dec_proj"


def _trocr(config: Config, side: Side) -> BartHalf:
    """BART's layers; positions are learned, or computed as in M2M-100."""
    learned = config.get("use_learned_position_embeddings", True)
    return bart_half(
        False,
        bool(config.get("layernorm_embedding", True)),
        "learned" if learned else "fairseq",
        2,
        config,
        side,
    )


DECODERS: Mapping[str, Callable[[Config, Side], Half]] = {  # by model_type
    "trocr": _trocr,
    "bart": bart.FAMILY.describe,
    "mbart": mbart.FAMILY.describe,
    "plbart": plbart.FAMILY.describe,
}


def _describe(config: Config, side: Side) -> Half:
    return _encoder(config) if side == "encoder" else _decoder(config)


def _encoder(config: Config) -> ImageHalf:
    """With the layer behind it where the decoder has another width and reads its own."""
    half = replace(vision_half(config["encoder"]), prefixes=("encoder.",), pooling=None)
    decoder = _decoder(config)
    if decoder.cross_size is not None or decoder.hidden_size == half.output_size:
        return half
    names = ("", PROJECTION, "")
    projector = Projector(decoder.hidden_size, None, names, prefixes=("",))
    return replace(half, projector=projector)


def _decoder(config: Config) -> BartHalf:
    """Raises UnsupportedModelError for a decoder of another structure."""
    text = config["decoder"]
    model_type = text["model_type"]
    if model_type not in DECODERS:
        raise UnsupportedModelError(
            f"the decoder has model_type {model_type!r}; supported: {', '.join(DECODERS)}"
        )
    half = DECODERS[model_type](text, "decoder")
    assert isinstance(half, BartHalf)
    return replace(
        half,
        prefix="decoder.",
        cross_size=text.get("cross_attention_hidden_size"),
        any_start=config["encoder"].get("model_type") == "donut-swin",  # its prompts are tasks
    )


FAMILY = Family(
    name="vision-encoder-decoder",
    architectures=("VisionEncoderDecoderModel",),
    input="image",
    encoder_names=rf"(encoder|{PROJECTION})\..*",
    describe=_describe,
    ignored={
        **{rf"decoder\.{pattern}": reason for pattern, reason in BART_IGNORED.items()},
        **VISION_IGNORED,
        r"encoder\.pooler\..*": "the decoder reads no pooled embedding",
    },
)
