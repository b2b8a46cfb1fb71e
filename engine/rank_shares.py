"""What each rank of a replica would hold of a model, reckoned from its description alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from antiphon.config.errors import CheckpointError
from antiphon.config.options import EngineConfig
from antiphon.config.parallel import Parallel
from antiphon.decoder import models as decoders
from antiphon.decoder.room import bytes_per_page
from antiphon.encoder import models as encoders
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.halves import Half, HeadTensors
from antiphon.layers.checkpoint import Checkpoint
from antiphon.layers.shard import Part, Shard
from antiphon.layers.tensor_files import files_by_tensor
from antiphon.layers.weights import bytes_saved
from antiphon.runtime.device import Target


@dataclass(frozen=True)
class RankShare:
    """Of one rank of `half`: layers `first_layer` to `last_layer`, from 0; query heads, heads of
    keys and values, inner features of each layer, words of the vocabulary (0: neither embedding nor
    head here), bytes of its weights as the checkpoint stores them, and of a page of its keys and
    values (0: an encoder has none)."""

    half: str
    rank: int
    first_layer: int
    last_layer: int
    heads: int
    kv_heads: int
    features: int
    words: int
    weight_bytes: int
    page_bytes: int


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
    heads = part.shard.heads_of(half)
    is_decoder = half.side == "decoder"
    page_bytes = bytes_per_page(model, config, target, part) if is_decoder else 0
    with torch.device("meta"):
        module: nn.Module = (
            decoders.build(half, _head(model), part) if is_decoder else encoders.build(half, part)
        )
    return RankShare(
        half.side,
        rank,
        part.layers.start,
        part.layers.stop - 1,
        heads.queries.count,
        heads.kv.count,
        part.shard.features(half.ffn_size).count,
        _words(half, part, part.shard),
        _weight_bytes(model, target, half, part, module),
        page_bytes,
    )


def _weight_bytes(
    model: ModelConfig, target: Target, half: Half, part: Part, module: nn.Module
) -> int:
    itemsize = target.dtype.itemsize
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
