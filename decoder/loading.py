"""Makes a decoder that is ready to run: built, filled from its checkpoint, prepared."""

import torch

from antiphon.config.options import EngineConfig
from antiphon.decoder.models import build
from antiphon.decoder.models.interface import DecoderModel
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.halves import HeadTensors
from antiphon.kernels.formats import FLOAT8
from antiphon.layers.prepare import prepare_decoder
from antiphon.layers.quantization.kv_scales import ProjectionInput
from antiphon.layers.shard import Part
from antiphon.layers.weights import Checkpoint, check_unused, fill_randomly, load_part
from antiphon.runtime.device import Target


def load_decoder(
    model: ModelConfig,
    config: EngineConfig,
    target: Target,
    kv_dtype: torch.dtype | None,
    part: Part,
) -> DecoderModel:
    """`part` of the decoder half of `model`, on `target`. `kv_dtype`: of cached keys and values,
    where it is not the target's.

    Raises CheckpointError for tensors that are missing, unknown or of another shape, and
    ConfigurationError for sizes that the quantization cannot have.
    """
    is_dummy = config.model.load_format == "dummy"
    checkpoint = None if is_dummy else Checkpoint(model.path)
    if checkpoint is None:
        decoder = _random(model, target, part)
    else:
        decoder = _read(model, target, checkpoint, part)
    encoder_states = None
    if kv_dtype == FLOAT8 and model.encoder is not None:
        encoder_states = ProjectionInput.of_encoder(model.encoder, checkpoint, target.device)
    prepare_decoder(decoder, config.model.quantization, target, kv_dtype, encoder_states)
    return decoder


def _random(model: ModelConfig, target: Target, part: Part) -> DecoderModel:
    head = HeadTensors(tied=model.raw.get("tie_word_embeddings", True), bias=False)
    decoder = target.build(lambda: build(model.decoder, head, part))
    fill_randomly(decoder)
    return decoder


def _read(model: ModelConfig, target: Target, checkpoint: Checkpoint, part: Part) -> DecoderModel:
    half = model.decoder
    head = half.head_tensors(checkpoint, model.raw.get("tie_word_embeddings", True))
    decoder = target.build(lambda: build(half, head, part))
    load_part(decoder, checkpoint, half.checkpoint_names, part, lambda: build(half, head))
    check_unused(checkpoint, "decoder", model.family.ignored)
    return decoder
