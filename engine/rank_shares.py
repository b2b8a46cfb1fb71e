"""What each rank of a replica would hold of a model, reckoned from its description alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn

from antiphon.config.errors import CheckpointError
from antiphon.config.options import EngineConfig
from antiphon.config.parallel import Parallel
from antiphon.decoder import models as decoders
from antiphon.decoder.room import (
    PageCounts,
    arena_tokens,
    bytes_per_page,
    page_counts,
    state_page_bytes,
)
from antiphon.encoder import models as encoders
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.halves import Half, HeadTensors
from antiphon.layers.checkpoint import Checkpoint
from antiphon.layers.padding import pad_features
from antiphon.layers.shard import Part, Shard
from antiphon.layers.tensor_files import files_by_tensor
from antiphon.layers.weights import bytes_saved
from antiphon.runtime.device import Target


@dataclass(frozen=True)
class CacheShare:
    """Of one rank of a decoder. Bytes of a page of its keys and values, and of a page of hidden
    states (0: cross-attention reads keys and values); and its arena, where hidden states arrive:
    tokens and bytes."""

    page_bytes: int
    state_page_bytes: int
    arena_tokens: int
    arena_bytes: int

    @classmethod
    def of(cls, model: ModelConfig, config: EngineConfig, target: Target, part: Part) -> Self:
        states = config.decoder.attends_to_states
        tokens = arena_tokens(model, config.scheduler)
        width = (model.encoder or model.decoder).output_size
        return cls(
            bytes_per_page(model, config, target, part),
            state_page_bytes(model, config, target) if states else 0,
            tokens,
            tokens * width * target.dtype.itemsize,
        )


@dataclass(frozen=True)
class RankShare:
    """Of one rank of `half`: layers `first_layer` to `last_layer`, from 0; query heads, heads of
    keys and values, inner features of each layer, words of the vocabulary (0: neither embedding nor
    head here), bytes of its weights as the checkpoint stores them, those of a draft model among
    them, and its cache (None: an encoder has none)."""

    half: str
    rank: int
    first_layer: int
    last_layer: int
    heads: int
    kv_heads: int
    features: int
    words: int
    weight_bytes: int
    cache: CacheShare | None


def pages_of_ranks(
    model: ModelConfig, config: EngineConfig, target: Target, parallel: Parallel
) -> PageCounts | None:
    """Pages on each rank of a decoder, as many on all of them. None where they depend on what is
    free on GPUs once weights are loaded. Raises ConfigurationError as `page_counts`."""
    options = config.decoder
    is_given = options.num_kv_pages is not None and not options.attends_to_states
    if target.device.type == "cuda" and options.kv_cache_memory_gib is None and not is_given:
        return None
    parts = Part.all_of(parallel, model.decoder.num_layers)
    counts = [page_counts(model, config, target, part) for part in parts]
    return PageCounts(min(count.kv for count in counts), min(count.states for count in counts))


def rank_shares(
    model: ModelConfig, config: EngineConfig, target: Target, layout: dict[str, Parallel]
) -> Iterator[RankShare]:
    """Of every rank of one replica of each half, `layout` by the half's name. No weight is read."""
    for half in filter(None, (model.encoder, model.decoder_half)):
        parts = Part.all_of(layout[half.side], half.num_layers)
        for rank, part in enumerate(parts):
            yield _share(model, config, target, half, rank, part)


def _share(
    model: ModelConfig, config: EngineConfig, target: Target, half: Half, rank: int, part: Part
) -> RankShare:
    heads, cache = part.shard.heads_of(half), None
    weight_bytes = _weight_bytes(model, config, target, half, part)
    if half.side == "decoder":
        cache = CacheShare.of(model, config, target, part)
        weight_bytes += draft_bytes(model, config, target, part.shard)
    return RankShare(
        half.side,
        rank,
        part.layers.start,
        part.layers.stop - 1,
        heads.queries.count,
        heads.kv.count,
        part.shard.features(half.ffn_size).count,
        _words(half, part, part.shard),
        weight_bytes,
        cache,
    )


def _module(model: ModelConfig, config: EngineConfig, half: Half, part: Part) -> nn.Module:
    """Without memory, as it is once its weights are loaded."""
    with torch.device("meta"):
        if half.side == "encoder":
            return encoders.build(half, part)
        decoder = decoders.build(half, _head(model), part)
        if config.decoder.attends_to_states:
            for attention in decoder.cross_attentions:
                attention.absorb()
        return decoder


def draft_bytes(
    model: ModelConfig, config: EngineConfig, target: Target, shard: Shard | None = None
) -> int:
    """Of a draft model's weights, or of a `shard` of them; 0 without one. Decoders with drafts have
    one stage, which has all its layers."""
    if model.draft is None:
        return 0
    half = model.draft.decoder
    part = Part(range(half.num_layers), half.num_layers, shard or Shard())
    return _weight_bytes(model.draft, config, target, half, part)


def _weight_bytes(
    model: ModelConfig, config: EngineConfig, target: Target, half: Half, part: Part
) -> int:
    module, itemsize = _module(model, config, half, part), target.dtype.itemsize
    if model.quantization is None:
        pad_features(module, target)
    plain = sum(weight.numel() for weight in module.parameters()) * itemsize
    if model.quantization is None:
        return plain

    def names(path: str) -> tuple[str, ...]:
        return half.checkpoint_names(part.whole_path(path))

    checkpoint = Checkpoint(model.path, model.quantization)
    return plain - bytes_saved(module, checkpoint, names, model.quantization, itemsize)


def _words(half: Half, part: Part, shard: Shard) -> int:
    has_some = part.is_first or (part.is_last and half.side == "decoder")
    return shard.vocabulary(half.vocab_size).count if has_some else 0


def _head(model: ModelConfig) -> HeadTensors:
    """As far as the names of the checkpoint's tensors tell."""
    configured = model.raw.get("tie_word_embeddings", True)
    try:
        return model.decoder.head_tensors(files_by_tensor(model.path), configured)
    except CheckpointError:  # no weights: they will be random
        return HeadTensors(tied=configured, bias=False)
