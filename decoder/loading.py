"""Makes a decoder that is ready to run: built, filled from its checkpoint, prepared."""

import logging
from dataclasses import replace

import torch

from antiphon.config.options import EngineConfig, ModelOptions
from antiphon.decoder.models import build
from antiphon.decoder.models.interface import (
    CachedAttention,
    CachedCrossAttention,
    DecoderModel,
)
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.halves import HeadTensors
from antiphon.families.tensor_names import EMBEDDING, HEAD
from antiphon.kernels.formats import FLOAT8
from antiphon.layers.checkpoint import Checkpoint
from antiphon.layers.opening import build_to_fill, kept_small, open_checkpoint
from antiphon.layers.prepare import prepare_decoder
from antiphon.layers.quantization.kv_scales import ProjectionInput, StoredScales
from antiphon.layers.random_weights import build_randomly
from antiphon.layers.shard import Part
from antiphon.layers.weights import check_unused, load_part
from antiphon.runtime.device import Target

logger = logging.getLogger(__name__)

KVScales = tuple[list[StoredScales | None], list[StoredScales | None]]  # of self, and of cross
KV_SCALES = (".k_scale", ".v_scale")


def load_decoder(
    model: ModelConfig,
    config: EngineConfig,
    target: Target,
    kv_dtype: torch.dtype | None,
    part: Part,
    state_factor: float | None = None,
) -> DecoderModel:
    """`part` of the decoder half of `model`, on `target`. `kv_dtype`: of cached keys
    and values, if not the target's. `state_factor`: of float8 pages of hidden states,
    if another model has chosen it.

    Raises CheckpointError for tensors that are missing, unknown or of another shape,
    and ConfigurationError for sizes that the quantization cannot have.
    """
    is_dummy = config.model.load_format == "dummy"
    checkpoint = None if is_dummy else open_checkpoint(model, config.model)
    scales: KVScales = ([], [])
    if checkpoint is None:
        decoder = _random(model, config.model, target, part)
    else:
        decoder = _read(model, target, checkpoint, part)
        if model.quantization is not None and model.quantization.kv_scales:
            scales = _kv_scales(model, decoder, checkpoint, part)
        check_unused(checkpoint, "decoder", model.family)
    encoder_states = None
    if kv_dtype == FLOAT8 and model.encoder is not None and model.decoder.cross_attention:
        encoder_states = ProjectionInput.of_encoder(model.encoder, checkpoint, target.device)
    if config.decoder.attends_to_states:
        for attention in decoder.cross_attentions:
            attention.absorb()
        if encoder_states is not None:
            decoder.read_scaled(state_factor or encoder_states.factor(target.dtype))
        encoder_states, scales = None, (scales[0], [])  # nothing projects them before attention
    prepare_decoder(decoder, config.model.quantization, target, kv_dtype, encoder_states, scales)
    return decoder


def _random(model: ModelConfig, options: ModelOptions, target: Target, part: Part) -> DecoderModel:
    half = model.decoder
    tied = model.raw.get("tie_word_embeddings", True) and half.num_embedded == half.vocab_size
    head = HeadTensors(tied=tied, bias=False)
    return build_randomly(
        target,
        lambda: build(half, head, part),
        kept_small(model, options),
        lambda path: half.checkpoint_names(part.whole_path(path)),
    )


def _read(model: ModelConfig, target: Target, checkpoint: Checkpoint, part: Part) -> DecoderModel:
    half = model.decoder
    head = _head_tensors(model, checkpoint)
    decoder = build_to_fill(target, checkpoint, lambda: build(half, head, part))

    def names(path: str) -> tuple[str, ...]:
        """Of a tied head: those of the embedding, on every stage."""
        return half.checkpoint_names(EMBEDDING if head.tied and path == HEAD else path)

    load_part(decoder, checkpoint, names, part, lambda: build(half, head))
    return decoder


def _kv_scales(
    model: ModelConfig, decoder: DecoderModel, checkpoint: Checkpoint, part: Part
) -> KVScales:
    """The checkpoint's scales of float8 keys and values, by attention. Claims those of
    other stages' layers, too."""
    names = model.decoder.checkpoint_names
    own: KVScales = ([], [])
    for path, module in decoder.named_modules():
        if isinstance(module, CachedAttention):
            kind = 1 if isinstance(module, CachedCrossAttention) else 0
            own[kind].append(StoredScales.of(part.whole_path(path), names, checkpoint))
    checkpoint.claimed.update(name for name in checkpoint.files if name.endswith(KV_SCALES))
    return own


def _head_tensors(model: ModelConfig, checkpoint: Checkpoint) -> HeadTensors:
    """A head that is stored with other values than the embedding is not tied to it,
    whatever config.json says. So has transformers."""
    half = model.decoder
    head = half.head_tensors(checkpoint, model.raw.get("tie_word_embeddings", True))
    stored = [name for name in half.checkpoint_names(EMBEDDING) if name in checkpoint]
    own = [name for name in half.head_names if name in checkpoint]
    if not head.tied or not own or stored[0] in half.head_names:
        return head
    both = (own[0], stored[0])
    if all(map(checkpoint.is_plain, both)) and torch.equal(*map(checkpoint.tensor, both)):
        return head
    logger.warning(
        "%s: config.json ties the head to the embedding, but %s and %s differ: they are not tied",
        checkpoint.folder,
        own[0],
        stored[0],
    )
    return replace(head, tied=False)
