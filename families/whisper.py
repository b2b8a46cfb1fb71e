"""Whisper (Radford et al. 2022): an audio encoder of its own, and BART's decoder."""

from antiphon.families.family import Config, Family
from antiphon.families.halves import BartHalf, WhisperEncoderHalf
from antiphon.families.tensor_names import TIED_HEAD, Side


def _describe(config: Config, side: Side) -> BartHalf:
    return _encoder(config) if side == "encoder" else _decoder(config)


def _encoder(config: Config) -> WhisperEncoderHalf:
    size, heads = config["d_model"], config["encoder_attention_heads"]
    return WhisperEncoderHalf(
        side="encoder",
        hidden_size=size,
        num_layers=config["encoder_layers"],
        num_heads=heads,
        head_dim=size // heads,
        attention_scale=(size // heads) ** -0.5,
        ffn_size=config["encoder_ffn_dim"],
        vocab_size=0,
        activation=config.get("activation_function", "gelu"),
        max_positions=config["max_source_positions"],
        pre_norm=True,
        embedding_norm=False,
        positions="learned",  # sinusoids, which the checkpoint stores
        position_offset=0,
        embedding_scale=1.0,
        key_bias=False,
        mel_bins=config.get("num_mel_bins", 80),
    )


def _decoder(config: Config) -> BartHalf:
    size, heads = config["d_model"], config["decoder_attention_heads"]
    return BartHalf(
        side="decoder",
        hidden_size=size,
        num_layers=config["decoder_layers"],
        num_heads=heads,
        head_dim=size // heads,
        attention_scale=(size // heads) ** -0.5,
        ffn_size=config["decoder_ffn_dim"],
        vocab_size=config["vocab_size"],
        activation=config.get("activation_function", "gelu"),
        max_positions=config["max_target_positions"],
        pre_norm=True,
        embedding_norm=False,
        positions="learned",
        position_offset=0,
        embedding_scale=1.0,
        key_bias=False,
    )


FAMILY = Family(
    name="whisper",
    architectures=("WhisperForConditionalGeneration",),
    input="audio",
    describe=_describe,
    ignored=TIED_HEAD,
)
