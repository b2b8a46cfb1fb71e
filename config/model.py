"""`ModelConfig`: everything about a checkpoint that is known before its weights are read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from antiphon.config.errors import CheckpointError, UnsupportedModelError
from antiphon.config.families import FAMILIES, Family, Half
from antiphon.config.options import ModelOptions

UNLIMITED_DECODER_LEN, UNLIMITED_ENCODER_LEN = 512, 1024  # where relative positions set no limit


@dataclass(frozen=True)
class ModelConfig:
    """A checkpoint folder, its two halves and its generation defaults. Lengths are in tokens."""

    path: Path
    architecture: str
    raw: Mapping[str, Any] = field(repr=False)
    generation: Mapping[str, Any] = field(repr=False)
    encoder: Half
    decoder: Half
    max_decoder_len: int
    max_encoder_len: int

    @cached_property
    def family(self) -> Family:
        return FAMILIES[self.architecture]

    @classmethod
    def load(cls, options: ModelOptions) -> "ModelConfig":
        """Reads config.json and generation_config.json of a local folder or hub id.

        Raises CheckpointError or UnsupportedModelError.
        """
        path = locate(options.model, options.revision)
        raw = _with_defaults(path, _read_json(path / "config.json"))
        architecture = next(iter(raw.get("architectures") or []), None)
        if architecture not in FAMILIES:
            supported = ", ".join(sorted(FAMILIES))
            raise UnsupportedModelError(f"architecture {architecture} of {options.model} is not supported. Supported: {supported}")
        family = FAMILIES[architecture]
        generation_file = path / "generation_config.json"
        generation = _read_json(generation_file) if generation_file.exists() else {}
        try:
            encoder, decoder = family.encoder(raw), family.decoder(raw)
        except KeyError as error:
            raise CheckpointError(f"config.json of {options.model} lacks {error}") from None
        _check_heads(encoder, "encoder", options.model)
        _check_heads(decoder, "decoder", options.model)
        return cls(
            path=path,
            architecture=architecture,
            raw=raw,
            generation={**_legacy_generation(raw), **{k: v for k, v in generation.items() if v is not None}},
            encoder=encoder,
            decoder=decoder,
            max_decoder_len=_limit("max_model_len", options.max_model_len, decoder.max_positions, UNLIMITED_DECODER_LEN),
            max_encoder_len=_limit("max_encoder_len", options.max_encoder_len, encoder.max_positions, UNLIMITED_ENCODER_LEN),
        )

    def token_id(self, name: str) -> int | None:
        """A special token's id from the generation config, else from config.json; the first where there are several."""
        value = self.generation.get(name, self.raw.get(name))
        return value[0] if isinstance(value, list) else value


def locate(model: str, revision: str | None) -> Path:
    """A local folder as it is; anything else is taken for a hub id and fetched (or found in the hub's cache)."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise CheckpointError(f"{folder} holds no config.json: is it a checkpoint in transformers format?")
        return folder.resolve()
    if folder.is_absolute() or model.startswith(".") or model.count("/") != 1:
        raise CheckpointError(f"no such folder: {model}. Give a folder with a checkpoint, or a hub id such as openai/whisper-tiny")
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.spm"]
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=wanted))
    except Exception as error:  # the hub client raises many unrelated types (network, auth, validation)
        raise CheckpointError(f"cannot fetch {model} from the hub: {type(error).__name__}: {str(error).splitlines()[0]}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def _with_defaults(path: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """config.json leaves out what equals the default of its class in some checkpoints; transformers knows the defaults."""
    architecture = next(iter(raw.get("architectures") or []), None)
    if architecture not in FAMILIES:
        return raw
    from transformers import AutoConfig

    try:
        return {**AutoConfig.from_pretrained(path).to_dict(), **raw}
    except Exception as error:  # strict dataclass validation, missing keys: all mean the same to the caller
        raise CheckpointError(f"config.json of {path} is not valid: {error}") from error


def _legacy_generation(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Generation settings that older checkpoints keep in config.json."""
    names = [
        "decoder_start_token_id",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "suppress_tokens",
        "begin_suppress_tokens",
        "bad_words_ids",
        "max_length",
    ]
    return {name: raw[name] for name in names if raw.get(name) is not None}


def _limit(name: str, asked: int | None, own: int | None, unlimited: int) -> int:
    if asked is not None and own is not None and asked > own:
        raise CheckpointError(f"{name}={asked} is more than the {own} positions of this model")
    return asked or own or unlimited


def _check_heads(half: Half, name: str, model: str) -> None:
    if half.structure != "t5" and half.hidden_size % half.num_heads:
        raise CheckpointError(f"{model}: {name} hidden size {half.hidden_size} is not a multiple of its {half.num_heads} heads")
