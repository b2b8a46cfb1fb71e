"""Whose queries a rank of a decoder keeps for word times."""

from antiphon.config.options import DecoderOptions
from antiphon.families.alignment_heads import alignment_heads
from antiphon.families.checkpoint import ModelConfig
from antiphon.layers.shard import Part


def kept_heads(model: ModelConfig, options: DecoderOptions, part: Part) -> dict[int, list[int]]:
    """The alignment heads among those of `part`, by layer; both numbered as the part
    does. Empty where word times are turned off. Raises CheckpointError."""
    if not options.enable_word_timestamps:
        return {}
    own, kept = part.shard.heads_of(model.decoder).queries, dict[int, list[int]]()
    for layer, head in alignment_heads(model):
        if layer in part.layers and own.first <= head < own.end:
            kept.setdefault(layer - part.layers.start, []).append(head - own.first)
    return kept
