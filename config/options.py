"""Engine options: frozen dataclasses by composition, resolved from flat keyword arguments by one pure function."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from antiphon.config.errors import ConfigurationError, nearest

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class ModelOptions:
    """Which checkpoint, and how its weights are held. dtype 'auto': float32 on a CPU, the checkpoint's own on a GPU."""

    model: str = ""
    revision: str | None = None
    dtype: Dtype = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    quantization: Literal["none", "fp8", "int8"] = "none"  # of linear layers
    load_format: Literal["auto", "dummy"] = "auto"  # dummy: random weights of the configuration's shapes, for measuring
    enforce_eager: bool = False  # on a GPU: no CUDA graphs
    max_model_len: int | None = None  # decoder positions; None: the model's own, or 512 where it has no limit
    max_encoder_len: int | None = None  # encoder tokens; None: the model's own, or 1024 where it has no limit


@dataclass(frozen=True)
class EncoderOptions:
    encoder_attention_backend: str = "auto"
    encoder_window: Literal["full", "auto"] = "full"  # audio: auto encodes only as many positions as a clip fills
    encoder_replicas: int = 1
    max_encoder_batch_tokens: int = 16_384  # tokens of one packed forward


@dataclass(frozen=True)
class DecoderOptions:
    decoder_attention_backend: str = "auto"
    decoder_replicas: int = 1
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"  # auto: the model's
    kv_page_size: int = 16  # tokens in a page
    num_kv_pages: int | None = None  # None: as many as max_num_seqs full sequences need, within kv_cache_memory_gib
    kv_cache_memory_gib: float | None = None  # None: 4 on a CPU, 85 % of what is free on a GPU


@dataclass(frozen=True)
class SchedulerOptions:
    max_num_seqs: int = 64  # sequences that decode together
    max_num_batched_tokens: int = 4096  # tokens of one decoder step
    num_scheduler_steps: int = 1  # decoder steps launched per round of the scheduler
    max_waiting_requests: int = 100_000
    encode_ahead_tokens: int | None = None  # encoder tokens asked for but not yet in the KV cache; None: max_num_seqs full inputs


@dataclass(frozen=True)
class PlacementOptions:
    address: str | None = None  # of a Ray cluster, as in ray.init; None: the running one, or a local one
    placement: Literal["auto", "colocated", "disaggregated"] = "auto"  # both halves in one process, or each in its own
    num_threads: int | None = None  # torch threads of each worker on a CPU; None: all cores
    startup_timeout: float = 300.0  # seconds
    ray: bool = True  # False: both halves in this process, without Ray


@dataclass(frozen=True)
class EngineConfig:
    model: ModelOptions = field(default_factory=ModelOptions)
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    decoder: DecoderOptions = field(default_factory=DecoderOptions)
    scheduler: SchedulerOptions = field(default_factory=SchedulerOptions)
    placement: PlacementOptions = field(default_factory=PlacementOptions)

    def artefact_hash(self) -> str:
        """Keys compiled kernels and captured graphs: everything that changes them, nothing else."""
        relevant = {
            "model": asdict(self.model),
            "encoder_attention_backend": self.encoder.encoder_attention_backend,
            "decoder_attention_backend": self.decoder.decoder_attention_backend,
            "kv_page_size": self.decoder.kv_page_size,
            "kv_cache_dtype": self.decoder.kv_cache_dtype,
        }
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]


SECTIONS: dict[str, Any] = {each.name: each.default_factory for each in fields(EngineConfig)}
OWNER = {option.name: name for name, section in SECTIONS.items() for option in fields(section)}
FROM_ENVIRONMENT = ("encoder_attention_backend", "decoder_attention_backend")


def resolve(model: str, options: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> EngineConfig:
    """Flat options to an EngineConfig. Environment variables ANTIPHON_<OPTION> serve for the attention backends.

    Raises ConfigurationError for an unknown name (with the nearest valid one) or a value out of range.
    """
    for name in options:
        if name not in OWNER:
            raise ConfigurationError(f"unknown option '{name}'.{nearest(name, list(OWNER))}")
    defaults = {name: environment[key] for name in FROM_ENVIRONMENT if (key := f"ANTIPHON_{name.upper()}") in environment}
    flat = {**defaults, **options, "model": str(model)}
    sections = {
        name: section(**{option: value for option, value in flat.items() if OWNER[option] == name})
        for name, section in SECTIONS.items()
    }
    config = EngineConfig(**sections)
    _validate(config)
    return config


def _validate(config: EngineConfig) -> None:
    at_least_one = {
        "encoder_replicas": config.encoder.encoder_replicas,
        "max_encoder_batch_tokens": config.encoder.max_encoder_batch_tokens,
        "decoder_replicas": config.decoder.decoder_replicas,
        "kv_page_size": config.decoder.kv_page_size,
        "num_kv_pages": config.decoder.num_kv_pages,
        "kv_cache_memory_gib": config.decoder.kv_cache_memory_gib,
        "max_num_seqs": config.scheduler.max_num_seqs,
        "max_num_batched_tokens": config.scheduler.max_num_batched_tokens,
        "num_scheduler_steps": config.scheduler.num_scheduler_steps,
        "max_waiting_requests": config.scheduler.max_waiting_requests,
        "encode_ahead_tokens": config.scheduler.encode_ahead_tokens,
        "max_model_len": config.model.max_model_len,
        "max_encoder_len": config.model.max_encoder_len,
        "num_threads": config.placement.num_threads,
    }
    for name, value in at_least_one.items():
        whole = name != "kv_cache_memory_gib"
        if value is not None and (isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or value <= 0):
            raise ConfigurationError(f"{name} must be a {'whole ' if whole else ''}number above 0, not {value!r}")
    choices: list[tuple[str, str, tuple[str, ...]]] = [
        ("dtype", config.model.dtype, ("auto", "float32", "bfloat16", "float16")),
        ("device", config.model.device, ("auto", "cpu", "cuda")),
        ("quantization", config.model.quantization, ("none", "fp8", "int8")),
        ("encoder_window", config.encoder.encoder_window, ("full", "auto")),
        ("load_format", config.model.load_format, ("auto", "dummy")),
        ("kv_cache_dtype", config.decoder.kv_cache_dtype, ("auto", "fp8")),
        ("placement", config.placement.placement, ("auto", "colocated", "disaggregated")),
    ]
    for name, chosen, valid in choices:
        if chosen not in valid:
            raise ConfigurationError(f"{name} must be one of {', '.join(valid)}, not {chosen!r}")
