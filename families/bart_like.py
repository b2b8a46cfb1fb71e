"""Families of BART's structure, which differ in the constants that `bart_like` takes."""

import math
from functools import partial
from typing import Literal

from antiphon.families.family import Config, Family
from antiphon.families.halves import BartHalf
from antiphon.families.tensor_names import BART_IGNORED, Side

Positions = Literal["learned", "sinusoidal", "fairseq"]


def bart_like(
    name: str,
    *architectures: str,
    pre_norm: bool,
    embedding_norm: bool,
    positions: Positions,
    position_offset: int = 0,
    too_narrow: frozenset[str] = frozenset(),
    language_tokens: tuple[str, ...] = (),
    marks_target_in_source: bool = False,
) -> Family:
    """A family whose halves are `BartHalf`s with these constants; see there."""
    return Family(
        name=name,
        architectures=architectures,
        input="text",
        describe=partial(bart_half, pre_norm, embedding_norm, positions, position_offset),
        ignored=BART_IGNORED,
        too_narrow=too_narrow,
        language_tokens=language_tokens,
        marks_target_in_source=marks_target_in_source,
    )


def bart_half(
    pre_norm: bool,
    embedding_norm: bool,
    positions: Positions,
    position_offset: int,
    config: Config,
    side: Side,
) -> BartHalf:
    """The half that `config` describes, of a family with these constants; see `BartHalf`."""
    size, heads = config["d_model"], config[f"{side}_attention_heads"]
    vocab_size = config["vocab_size"]
    if side == "decoder":
        vocab_size = config.get("decoder_vocab_size") or vocab_size
    # M2M-100 counts positions from behind its padding token, which has none of its own.
    skips_padding = positions == "fairseq"
    padding_id = config.get("pad_token_id", 1) or 0
    return BartHalf(
        side=side,
        hidden_size=size,
        num_layers=config[f"{side}_layers"],
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=size // heads,
        attention_scale=(size // heads) ** -0.5,
        ffn_size=config[f"{side}_ffn_dim"],
        vocab_size=vocab_size,
        activation=config.get("activation_function", "gelu"),
        max_positions=config.get("max_position_embeddings", 1024),
        pre_norm=pre_norm,
        embedding_norm=embedding_norm,
        positions=positions,
        position_offset=padding_id + 1 if skips_padding else position_offset,
        embedding_scale=math.sqrt(size) if config.get("scale_embedding") else 1.0,
        padding_id=padding_id if skips_padding else None,
    )
