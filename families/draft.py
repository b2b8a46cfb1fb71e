"""Who drafts tokens for a checkpoint: its own input, or another one that fits it."""

from dataclasses import fields, replace

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import EngineConfig
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.halves import Half

# Of decoders: what the pages of a token's keys and values, and its logits, have in common.
_SHARED = ("vocab_size", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "padding_id")


def with_draft(model: ModelConfig, config: EngineConfig) -> ModelConfig:
    """`model` with what is known of the draft model that `config` names, if it names one.

    Raises ConfigurationError for one that does not fit, and what `ModelConfig.load` raises.
    """
    options = config.speculation
    if options.speculative_method != "draft_model" or model.draft is not None:
        return model
    assert options.speculative_model is not None
    if model.encoder is None or not model.decoder.cross_attention:
        raise ConfigurationError(
            f"{_named(config)}: a draft model shares an encoder, and {model.architecture} has none "
            "that its decoder attends to: give speculative_method='ngram'"
        )
    draft = ModelConfig.load(
        replace(
            config.model,
            model=options.speculative_model,
            revision=options.speculative_revision,
            max_model_len=model.max_decoder_len,
            max_encoder_len=model.max_encoder_len,
        )
    )
    if problem := _difference(model, draft):
        raise ConfigurationError(
            f"{_named(config)} cannot draft for {config.model.model}: {problem}. Give a checkpoint "
            "that was made from it with the same encoder (as Distil-Whisper is), or "
            "speculative_method='ngram'"
        )
    return replace(model, draft=draft)


def looks_up(model: ModelConfig, config: EngineConfig) -> bool:
    """Whether drafts are looked up in the texts that the encoder reads: both halves must mean the
    same by a token."""
    encoder, decoder = model.encoder, model.decoder_half
    if config.speculation.speculative_method != "ngram" or encoder is None or decoder is None:
        return False
    return encoder.vocab_size == decoder.vocab_size


def _named(config: EngineConfig) -> str:
    return f"speculative_model={config.speculation.speculative_model!r}"


def _difference(model: ModelConfig, draft: ModelConfig) -> str | None:
    """In what the two differ that they must share; None: in nothing."""
    if draft.family.name != model.family.name:
        return f"it is a {draft.family.name}, not a {model.family.name}"
    for name in _SHARED:
        own, other = getattr(draft.decoder, name), getattr(model.decoder, name)
        if own != other:
            return f"its decoder's {name} is {own}, not {other}"
    assert model.encoder is not None
    return _encoders_differ(model.encoder, draft.encoder)


def _encoders_differ(encoder: Half, other: Half | None) -> str | None:
    if other is None or encoder.structure != other.structure:
        return "its encoder is of another kind"
    for field in fields(encoder):
        own, wanted = getattr(other, field.name), getattr(encoder, field.name)
        if own != wanted:
            return f"its encoder's {field.name} is {own}, not {wanted}"
    return None
