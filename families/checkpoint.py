"""`ModelConfig`: everything about a checkpoint that is known before its weights are read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from antiphon.config.errors import CheckpointError, ConfigurationError, UnsupportedModelError
from antiphon.config.generation import GenerationDefaults
from antiphon.config.generation_settings import generation_settings, without_defaults
from antiphon.config.locate import locate
from antiphon.config.options import ModelOptions
from antiphon.families.audio_config import AudioConfig
from antiphon.families.checkpoint_files import own_generation, stated_config
from antiphon.families.config_errors import config_errors
from antiphon.families.family import Family
from antiphon.families.halves import Half
from antiphon.families.quantization.reading import stored_quantization
from antiphon.families.quantization.scheme import StoredQuantization
from antiphon.families.registry import families

PARTS = ("text_config", "vision_config", "encoder", "decoder")  # of config.json: a half each
# No defaults of transformers' classes: they hold for one vocabulary, and generate() ignores them.
FIRST_TOKENS = ("decoder_start_token_id", "bos_token_id")
UNLIMITED_DECODER_LEN, UNLIMITED_ENCODER_LEN = 512, 1024  # where relative positions set no limit


@dataclass(frozen=True)
class Sizes:
    """The halves of a checkpoint, and how long their inputs may be, in tokens."""

    encoder: Half | None  # None: text goes to the decoder itself
    decoder_half: Half | None  # None: hidden states are all that there is
    max_decoder_len: int  # 0 without a decoder
    max_encoder_len: int

    @property
    def decoder(self) -> Half:
        """Raises UnsupportedModelError for a checkpoint without one."""
        return _existing(self.decoder_half)

    @classmethod
    def of(cls, halves: tuple[Half | None, Half | None], options: ModelOptions) -> "Sizes":
        """Raises CheckpointError for sizes that contradict each other or `options`."""
        encoder, decoder = halves
        if encoder is not None:
            encoder.check(options.model)
        elif options.max_encoder_len is not None:
            raise CheckpointError(
                f"max_encoder_len={options.max_encoder_len}: {options.model} has no encoder"
            )
        if decoder is not None:
            decoder.check(options.model)
        lengths = (
            _limit("max_model_len", options.max_model_len, decoder, UNLIMITED_DECODER_LEN),
            _limit("max_encoder_len", options.max_encoder_len, encoder, UNLIMITED_ENCODER_LEN),
        )
        return cls(encoder, decoder, *lengths)


@dataclass(frozen=True)
class ModelConfig:
    """A checkpoint folder, its halves and its generation defaults. Lengths are in tokens."""

    path: Path
    architecture: str
    raw: Mapping[str, Any] = field(repr=False)  # config.json, with transformers' defaults
    generation: Mapping[str, Any] = field(repr=False)  # generation_config.json, or old config.json
    defaults: GenerationDefaults = field(repr=False)
    encoder: Half | None  # None: text goes to the decoder itself
    decoder_half: Half | None  # None: hidden states are all that there is
    max_decoder_len: int  # 0 without a decoder
    max_encoder_len: int  # 0 without an encoder
    quantization: StoredQuantization | None = None  # of the checkpoint's weights
    draft: "ModelConfig | None" = None  # the smaller model that drafts its tokens

    @property
    def decoder(self) -> Half:
        """Raises UnsupportedModelError for a checkpoint without one."""
        return _existing(self.decoder_half)

    @cached_property
    def family(self) -> Family:
        return families()[self.architecture]

    @property
    def has_equal_windows(self) -> bool:
        """Whether all its inputs are equally long to its encoder, as Whisper's recordings."""
        return self.encoder is not None and self.encoder.equal_windows

    @property
    def max_cross_len(self) -> int:
        """Encoder tokens that a sequence may attend to; 0 without cross-attention."""
        if not self.decoder.cross_attention:
            return 0
        return self.decoder.most_attended * self.max_encoder_len

    @cached_property
    def audio(self) -> AudioConfig | None:
        """How the encoder wants its samples; None for text. Raises CheckpointError."""
        return None if self.encoder is None else self.encoder.audio_config(self.path)

    @classmethod
    def load(cls, options: ModelOptions) -> "ModelConfig":
        """Reads config.json and generation_config.json of a local folder or hub id.

        Raises CheckpointError, UnsupportedModelError, or ConfigurationError for a dtype that the
        family can't use.
        """
        path = locate(options.model, options.revision)
        stated = stated_config(path)
        architecture = _architecture(stated, options.model)
        family = families()[architecture]
        stated = _translated(family, stated, options.model)
        quantization = _formats(family, stated, options)
        raw = _with_defaults(path, architecture, stated)
        sizes = Sizes.of(_halves(family, raw, options.model), options)
        generation = generation_settings(own_generation(path), stated)
        if options.generation_config == "none":
            generation = without_defaults(generation)
        return cls(
            path=path,
            architecture=architecture,
            raw=raw,
            generation=generation,
            defaults=_defaults(generation, raw, sizes.decoder_half),
            quantization=quantization,
            **vars(sizes),
        )

    def token_id(self, name: str) -> int | None:
        """A special token's id from the generation config, else from config.json.

        The first of several; None where the generation config says null.
        """
        value = self.generation.get(name, self.raw.get(name))
        return next(iter(value), None) if isinstance(value, list) else value


def architecture_of(options: ModelOptions) -> tuple[str, str]:
    """The architecture of a local folder or hub id, and what it reads ('text' or 'audio').

    Reads config.json alone, without transformers, which imports torch. Raises CheckpointError or
    UnsupportedModelError.
    """
    stated = stated_config(locate(options.model, options.revision))
    architecture = _architecture(stated, options.model)
    return architecture, families()[architecture].input or "text"


def stated_sizes(options: ModelOptions) -> Sizes | None:
    """The sizes that config.json alone states, read without transformers; None where it leaves one
    to transformers' defaults.

    Raises as `ModelConfig.load`.
    """
    stated = stated_config(locate(options.model, options.revision))
    family = families()[_architecture(stated, options.model)]
    stated = _translated(family, stated, options.model)
    _formats(family, stated, options)
    try:
        halves = _halves(family, without_nulls(stated), options.model)
    except CheckpointError:
        return None
    return Sizes.of(halves, options)


def stated_generation(options: ModelOptions) -> dict[str, Any]:
    """generation_config.json without any defaults; empty where the checkpoint has none.

    Reads it without transformers. Raises CheckpointError.
    """
    return own_generation(locate(options.model, options.revision)) or {}


def _defaults(
    generation: Mapping[str, Any], raw: Mapping[str, Any], decoder: Half | None
) -> GenerationDefaults:
    if decoder is None:
        return GenerationDefaults.of({}, {}, 0)
    special = {**raw.get("text_config", {}), **raw.get("decoder", {}), **raw}
    return GenerationDefaults.of(generation, special, decoder.vocab_size)


def _existing(decoder: Half | None) -> Half:
    if decoder is None:
        raise UnsupportedModelError(
            "this checkpoint is an encoder alone: it generates no text; use encode()"
        )
    return decoder


def _halves(family: Family, raw: Mapping[str, Any], model: str) -> tuple[Half | None, Half | None]:
    with config_errors(model):
        return family.encoder(raw), family.decoder(raw)


def _translated(family: Family, stated: Mapping[str, Any], model: str) -> dict[str, Any]:
    with config_errors(model):
        return dict(family.translate(stated))


def _architecture(raw: Mapping[str, Any], model: str) -> str:
    """The first of config.json's architectures that is known; else its model_type's default."""
    named = raw.get("architectures") or []
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(
            f"architectures of {model} must be a list of names, not {named!r:.60}"
        )
    model_type = raw.get("model_type")
    of_type = [name for name, family in families().items() if family.name == model_type]
    for name in names or of_type:
        if name in families():
            return str(name)
    unknown = (
        f"architecture {', '.join(map(str, names))}"
        if names
        else f"model_type {model_type!r} without architectures"
    )
    raise UnsupportedModelError(
        f"{unknown} of {model} is not supported. Supported: {', '.join(sorted(families()))}"
    )


def _formats(
    family: Family, raw: Mapping[str, Any], options: ModelOptions
) -> StoredQuantization | None:
    """How the weights are quantised. Refuses what is not read, and a dtype that the family can't
    use: otherwise its numbers would be read as if they were others."""
    family.check_dtype(options.dtype)
    quantization = stored_quantization(raw, options.model)
    if quantization is None and options.quantization == "dequantize":
        raise ConfigurationError(
            f"quantization='dequantize': the weights of {options.model} are not quantised: leave "
            "it out"
        )
    if quantization is not None and options.load_format == "dummy":
        others = {rule.scheme.weights.kind for rule in quantization.rules} - {"int", "float"}
        if others:
            raise ConfigurationError(
                f"load_format='dummy': random weights of {', '.join(sorted(others))} are not made, "
                f"and those of {options.model} are such ({quantization.method}): take away "
                "quantization_config, or give the weights"
            )
    return quantization


def _with_defaults(path: Path, architecture: str, raw: dict[str, Any]) -> dict[str, Any]:
    """Adds what config.json and its PARTS leave out: the defaults of transformers' class, but for
    FIRST_TOKENS."""
    from transformers import CONFIG_MAPPING

    family = families()[architecture]
    model_type = family.translated_name or family.name
    stated = without_nulls(raw)
    try:
        full = CONFIG_MAPPING[model_type].from_dict(stated).to_dict()
    except Exception as error:  # missing keys, strict validation: all mean the same to the caller
        raise CheckpointError(f"config.json of {path} is not valid: {error}") from error
    parts = {
        name: _without_unstated(full[name], stated.get(name) or {})
        for name in PARTS
        if isinstance(full.get(name), Mapping)
    }
    return {**_without_unstated(full, stated), **stated, **parts}


def _without_unstated(full: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in full.items() if name in stated or name not in FIRST_TOKENS
    }


def without_nulls(raw: Mapping[str, Any]) -> dict[str, Any]:
    """For sizes and flags null means the default; for a token it means that there is none."""
    return {
        name: value
        for name, value in raw.items()
        if value is not None or name.endswith("_token_id")
    }


def _limit(name: str, wanted: int | None, half: Half | None, unlimited: int) -> int:
    """The length asked for, else the positions of `half`, else `unlimited`; 0 without a half."""
    if half is None:
        return 0
    positions = half.max_positions
    if wanted is not None and positions is not None and wanted > positions:
        raise CheckpointError(
            f"{name}={wanted} is more than the {positions} positions of this model"
        )
    return wanted or positions or unlimited
