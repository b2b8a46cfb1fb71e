"""The registry of supported architectures: how each family's config.json becomes the description of two halves.

A family that differs from another only in constants is a row of `FAMILIES`, not a file of its own. Sources: the
families' papers and the configuration files of transformers.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from antiphon.config.errors import ConfigurationError
from antiphon.families.halves import BartHalf, Half, T5Half

Config = Mapping[str, Any]
BFLOAT16_TRAINED = frozenset({"float16"})


# Tensors that some checkpoints hold and no half loads: patterns of their names, and why they are not needed.
_TIED = {r"(lm_head|proj_out)\.weight": "the head is the embedding where config.json ties them"}
BART_IGNORED = {
    **_TIED,
    r"(model\.)?(encoder|decoder)\.version": "fairseq's mark of a file format",
    r"(model\.)?(encoder|decoder)\.embed_positions\.weights": "computed, as in transformers: M2M-100's table is no parameter",
    r"(model\.)?(encoder|decoder)\.embed_positions\._float_tensor": "fairseq's mark of a number format",
}
T5_IGNORED = {
    **_TIED,
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": "cross-attention has no positions",
}


@dataclass(frozen=True)
class Family:
    """A row of the registry. `encoder` and `decoder` read config.json; `input` is what the encoder takes.

    `too_narrow`: formats that its activations leave. Published T5 and Pegasus models were trained in
    bfloat16; their feed-forward layers pass float16's 65504 (transformers keeps such a layer of T5 in
    float32, and cuts what is infinite). The other families were trained in float16, or serve in it.
    """

    name: str  # transformers' model_type
    input: Literal["text", "audio"]
    encoder: Callable[[Config], Half]
    decoder: Callable[[Config], Half]
    ignored: Mapping[str, str] = field(
        default_factory=dict
    )  # patterns of tensor names that are not needed, and why
    too_narrow: frozenset[str] = frozenset()

    def check_dtype(self, dtype: str) -> None:
        """Raises ConfigurationError for a format that can't hold this family's activations."""
        if dtype in self.too_narrow:
            raise ConfigurationError(
                f"dtype='{dtype}' can't hold the activations of {self.name} models, which pass its largest number "
                "and give wrong text: use dtype='bfloat16' or 'float32', or leave it to 'auto'"
            )


def _bart(
    half: Literal["encoder", "decoder"],
    pre_norm: bool,
    embedding_norm: bool,
    positions: Any,
    offset: int,
) -> Callable[[Config], Half]:
    def describe(config: Config) -> BartHalf:
        vocab_size = (
            config["vocab_size"]
            if half == "encoder"
            else config.get("decoder_vocab_size") or config["vocab_size"]
        )
        pad = config.get("pad_token_id", 1) or 0
        return BartHalf(
            structure="bart",
            hidden_size=config["d_model"],
            num_layers=config[f"{half}_layers"],
            num_heads=config[f"{half}_attention_heads"],
            ffn_size=config[f"{half}_ffn_dim"],
            vocab_size=vocab_size,
            activation=config.get("activation_function", "gelu"),
            max_positions=config.get("max_position_embeddings", 1024),
            pre_norm=pre_norm,
            embedding_norm=embedding_norm,
            positions=positions,
            position_offset=pad + 1 if positions == "fairseq" else offset,
            embedding_scale=math.sqrt(config["d_model"]) if config.get("scale_embedding") else 1.0,
            padding_id=pad if positions == "fairseq" else None,
            logits_bias=half == "decoder",
        )

    return describe


def _whisper(half: Literal["encoder", "decoder"]) -> Callable[[Config], Half]:
    def describe(config: Config) -> BartHalf:
        audio = half == "encoder"
        return BartHalf(
            structure="whisper" if audio else "bart",
            hidden_size=config["d_model"],
            num_layers=config[f"{half}_layers"],
            num_heads=config[f"{half}_attention_heads"],
            ffn_size=config[f"{half}_ffn_dim"],
            vocab_size=0 if audio else config["vocab_size"],
            activation=config.get("activation_function", "gelu"),
            max_positions=config["max_source_positions" if audio else "max_target_positions"],
            pre_norm=True,
            embedding_norm=False,
            positions="learned",  # the encoder's sinusoids are stored in the checkpoint
            position_offset=0,
            embedding_scale=1.0,
            key_bias=False,
            mel_bins=config.get("num_mel_bins", 80) if audio else 0,
        )

    return describe


def _t5(
    half: Literal["encoder", "decoder"], scales_tied_head: bool = True
) -> Callable[[Config], Half]:
    def describe(config: Config) -> T5Half:
        kind, _, name = config.get("feed_forward_proj", "relu").rpartition("-")
        tied = config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True))
        layers = (
            config["num_layers"]
            if half == "encoder"
            else config.get("num_decoder_layers") or config["num_layers"]
        )
        return T5Half(
            structure="t5",
            hidden_size=config["d_model"],
            num_layers=layers,
            num_heads=config["num_heads"],
            head_dim=config["d_kv"],
            ffn_size=config["d_ff"],
            vocab_size=config["vocab_size"],
            activation="gelu_new" if (kind, name) == ("gated", "gelu") else name,
            gated=kind == "gated",
            bias_buckets=config.get("relative_attention_num_buckets", 32),
            bias_max_distance=config.get("relative_attention_max_distance", 128),
            norm_eps=config.get("layer_norm_epsilon", 1e-6),
            logits_scale=config["d_model"] ** -0.5 if scales_tied_head and tied else 1.0,
        )

    return describe


def _bart_family(
    name: str,
    pre_norm: bool,
    embedding_norm: bool,
    positions: str,
    offset: int = 0,
    too_narrow: frozenset[str] = frozenset(),
) -> Family:
    constants = (pre_norm, embedding_norm, positions, offset)
    return Family(
        name,
        "text",
        _bart("encoder", *constants),
        _bart("decoder", *constants),
        BART_IGNORED,
        too_narrow,
    )


def _t5_family(name: str, scales_tied_head: bool = True) -> Family:
    return Family(
        name, "text", _t5("encoder"), _t5("decoder", scales_tied_head), T5_IGNORED, BFLOAT16_TRAINED
    )


FAMILIES: dict[str, Family] = {
    "WhisperForConditionalGeneration": Family(
        "whisper", "audio", _whisper("encoder"), _whisper("decoder"), _TIED
    ),
    "BartForConditionalGeneration": _bart_family("bart", False, True, "learned", offset=2),
    "BartModel": _bart_family(
        "bart", False, True, "learned", offset=2
    ),  # facebook/bart-large names this one
    "MBartForConditionalGeneration": _bart_family("mbart", True, True, "learned", offset=2),
    "PegasusForConditionalGeneration": _bart_family(
        "pegasus", True, False, "sinusoidal", too_narrow=BFLOAT16_TRAINED
    ),
    "MarianMTModel": _bart_family("marian", False, False, "sinusoidal"),
    "M2M100ForConditionalGeneration": _bart_family("m2m_100", True, False, "fairseq"),  # NLLB too
    "T5ForConditionalGeneration": _t5_family("t5"),  # Flan-T5 and ByT5 too
    "T5WithLMHeadModel": _t5_family("t5"),  # what old T5 checkpoints call it
    "MT5ForConditionalGeneration": _t5_family("mt5", scales_tied_head=False),
}
