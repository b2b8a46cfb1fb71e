"""The families that the folder holds, and the facts that their halves state."""

import json
from pathlib import Path

import pytest
import tiny_models
from paths import ROOT
from transformers import CONFIG_MAPPING, TrOCRConfig, ViTConfig

from antiphon.config.errors import CheckpointError
from antiphon.config.options import ModelOptions
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.family import Family
from antiphon.families.halves import BartHalf, Half, HeadTensors, T5Half
from antiphon.families.image_halves import ImageHalf
from antiphon.families.registry import families
from antiphon.families.swin_half import SwinHalf

FILES = [path for path in (ROOT / "families").glob("*.py") if "\nFAMILY = " in path.read_text()]
PAIRS = ("vision-encoder-decoder",)  # config.json chooses both halves


def halves(architecture: str) -> tuple[Family, Half | None, Half | None]:
    """The halves of transformers' default configuration."""
    family = families()[architecture]
    config = CONFIG_MAPPING[family.translated_name or family.name]().to_dict()
    return family, family.encoder(config), family.decoder(config)


def test_every_file_with_a_family_is_in_the_registry() -> None:
    names = {family.name for family in families().values()}
    stems = {path.stem.removesuffix("_encoder") for path in FILES}  # of a family that has decoders
    assert {name.replace("-", "_") for name in names} == stems
    assert {"whisper", "bart", "t5", "plbart"} <= names


def test_no_two_families_claim_an_architecture() -> None:
    distinct = {id(family): family for family in families().values()}.values()
    assert sum(len(family.architectures) for family in distinct) == len(families())


@pytest.mark.parametrize(
    "architecture", [name for name, family in families().items() if family.input is None]
)
def test_facts_of_decoders_alone(architecture: str) -> None:
    _, encoder, decoder = halves(architecture)
    assert encoder is None
    assert decoder.side == "decoder"
    assert not decoder.cross_attention
    assert decoder.feed_forward_matrices == 3
    assert decoder.last_norm == "norm"
    assert decoder.checkpoint_names("norm.weight")[:2] == ("model.norm.weight", "norm.weight")


@pytest.mark.parametrize(
    "architecture", [name for name, family in families().items() if not family.has_decoder]
)
def test_facts_of_encoders_alone(architecture: str) -> None:
    family, encoder, decoder = halves(architecture)
    assert decoder is None
    if family.input == "text":
        assert isinstance(encoder, T5Half)
        return
    assert isinstance(encoder, ImageHalf)
    assert encoder.rows(encoder.smallest) >= 1
    # Heads are those of the first stage, where there are several.
    size = encoder.stages[0].size if isinstance(encoder, SwinHalf) else encoder.hidden_size
    assert encoder.head_dim * encoder.num_heads == size
    assert family.is_of_encoder("text_model.final_layer_norm.weight")


@pytest.mark.parametrize(
    "architecture",
    [
        name
        for name, family in families().items()
        if family.input in ("text", "audio") and family.has_decoder
    ],
)
def test_facts_of_the_halves(architecture: str) -> None:
    family, encoder, decoder = halves(architecture)
    assert encoder is not None
    assert decoder.cross_attention
    assert (encoder.side, decoder.side) == ("encoder", "decoder")
    t5 = family.name in ("t5", "mt5")
    for half in (encoder, decoder):
        assert half.relative_bias == t5
        assert (half.max_positions is None) == t5
        assert (half.padding_id is not None) == (family.name == "m2m_100")
        gated = {"mt5": (encoder, decoder), "t5gemma": (encoder, decoder), "moonshine": (decoder,)}
        assert half.feed_forward_matrices == (3 if half in gated.get(family.name, ()) else 2)
        assert half.num_heads * half.head_dim > 0
    assert (family.input == "audio") == (encoder.vocab_size == 0)
    assert encoder.equal_windows == (family.name == "whisper")
    assert not decoder.equal_windows


@pytest.mark.parametrize(
    "architecture",
    [
        name
        for name, family in families().items()
        if family.input == "image" and family.has_decoder and family.name not in PAIRS
    ],
)
def test_facts_of_decoders_with_images_in_their_prompts(architecture: str) -> None:
    family, encoder, decoder = halves(architecture)
    assert isinstance(encoder, ImageHalf)
    assert decoder is not None
    assert decoder.cross_attention == (family.name == "mllama")
    assert family.is_of_encoder(encoder.checkpoint_names("projector.linear_1.weight")[0])
    assert not family.is_of_encoder(decoder.checkpoint_names("norm.weight")[2])


def test_facts_of_an_encoder_with_a_decoder_that_attends_to_it() -> None:
    """config.json chooses both halves; a layer between them belongs to the encoder."""
    config = {
        "encoder": ViTConfig(hidden_size=36, num_attention_heads=3).to_dict(),
        "decoder": TrOCRConfig(d_model=48, decoder_attention_heads=3).to_dict(),
    }
    family = families()["VisionEncoderDecoderModel"]
    encoder, decoder = family.encoder(config), family.decoder(config)
    assert isinstance(encoder, ImageHalf)
    assert isinstance(decoder, BartHalf)
    assert decoder.cross_attention
    assert encoder.output_size == 48
    assert encoder.pooling is None
    for path in ("projector.linear_1.weight", "norm.weight", "layers.0.fc1.weight"):
        assert all(map(family.is_of_encoder, encoder.checkpoint_names(path)))
    for path in ("layers.0.fc1.weight", "embedding.embed_tokens.weight", "lm_head.weight"):
        assert not any(map(family.is_of_encoder, decoder.checkpoint_names(path)))
    config["decoder"]["cross_attention_hidden_size"] = 36
    assert family.encoder(config).output_size == family.decoder(config).cross_size == 36


@pytest.mark.parametrize(
    ("architecture", "path", "names"),
    [
        ("WhisperForConditionalGeneration", "layer_norm.weight", ("model.encoder.layer_norm",)),
        ("MBartForConditionalGeneration", "layer_norm.weight", ("model.encoder.layer_norm",)),
        ("T5ForConditionalGeneration", "final_layer_norm.weight", ("encoder.final_layer_norm",)),
        (
            "BartForConditionalGeneration",
            "layers.11.final_layer_norm.weight",
            ("model.encoder.layers.11.final_layer_norm", "encoder.layers.11.final_layer_norm"),
        ),
    ],
)
def test_the_norm_whose_output_an_encoder_returns(
    architecture: str, path: str, names: tuple[str, ...]
) -> None:
    encoder = halves(architecture)[1]
    assert encoder is not None
    assert f"{encoder.last_norm}.weight" == path
    assert set(encoder.checkpoint_names(path)) >= {f"{name}.weight" for name in names}


def test_names_of_tensors() -> None:
    _, encoder, decoder = halves("T5ForConditionalGeneration")
    assert encoder.checkpoint_names("layers.3.attention.q.weight") == (
        "encoder.block.3.layer.0.SelfAttention.q.weight",
    )
    assert decoder.checkpoint_names("layers.0.cross_attention.layer_norm.weight") == (
        "decoder.block.0.layer.1.layer_norm.weight",
    )
    assert decoder.checkpoint_names("bias.weight") == (
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    )
    assert decoder.checkpoint_names("lm_head.weight")[:2] == (
        "lm_head.weight",
        "decoder.embed_tokens.weight",
    )
    _, _, bart = halves("BartForConditionalGeneration")
    assert bart.checkpoint_names("final_logits_bias") == ("final_logits_bias",)
    assert bart.checkpoint_names("embedding.embed_tokens.weight")[:3] == (
        "model.decoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "model.shared.weight",
    )


@pytest.mark.parametrize(
    ("architecture", "stored", "configured", "tied"),
    [
        ("BartForConditionalGeneration", True, True, True),  # config.json decides
        ("BartForConditionalGeneration", True, False, False),
        ("BartForConditionalGeneration", False, False, True),  # there is no other matrix
        ("T5ForConditionalGeneration", True, True, False),  # the stored head decides
        ("T5ForConditionalGeneration", False, False, True),
    ],
)
def test_whether_the_head_is_the_embedding(
    architecture: str, stored: bool, configured: bool, tied: bool
) -> None:
    decoder = halves(architecture)[2]
    tensors = {"lm_head.weight", "final_logits_bias"} if stored else set()
    assert decoder.head_tensors(tensors, configured) == HeadTensors(tied=tied, bias=stored)


@pytest.mark.parametrize(
    ("heads", "message"), [(5, "not a multiple of its 5 heads"), (0, "has 0 attention heads")]
)
def test_heads_that_do_not_divide_the_hidden_size(heads: int, message: str, tmp_path: Path) -> None:
    tiny_models.make("bart", tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**settings, "encoder_attention_heads": heads})
    )
    with pytest.raises(CheckpointError, match=message):
        ModelConfig.load(ModelOptions(str(tmp_path)))
