"""Engine options: frozen dataclasses by composition, resolved from flat keyword arguments by one pure function."""

import math
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from antiphon.config import foreign
from antiphon.config.errors import ConfigurationError, nearest
from antiphon.config.foreign import shown

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class ModelOptions:
    """Which checkpoint, and how its weights are held. dtype 'auto': float32 on a CPU, the checkpoint's own on a GPU."""

    model: str = ""
    revision: str | None = None
    dtype: Dtype = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    quantization: Literal["none", "fp8", "int8"] = "none"  # of linear layers
    load_format: Literal["auto", "dummy"] = (
        "auto"  # dummy: random weights of the configuration's shapes, for measuring
    )
    enforce_eager: bool = False  # on a GPU: no CUDA graphs
    max_model_len: int | None = (
        None  # decoder positions; None: the model's own, or 512 where it has no limit
    )
    max_encoder_len: int | None = (
        None  # encoder tokens; None: the model's own, or 1024 where it has no limit
    )


@dataclass(frozen=True)
class EncoderOptions:
    encoder_attention_backend: str = "auto"
    encoder_window: Literal["full", "auto"] = (
        "full"  # audio: auto encodes only as many positions as a clip fills
    )
    encoder_replicas: int = 1
    max_encoder_batch_tokens: int = 16_384  # tokens of one packed forward


@dataclass(frozen=True)
class DecoderOptions:
    decoder_attention_backend: str = "auto"
    decoder_replicas: int = 1
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"  # auto: the model's
    kv_page_size: int = 16  # tokens in a page
    num_kv_pages: int | None = (
        None  # None: as many as max_num_seqs full sequences need, within kv_cache_memory_gib
    )
    kv_cache_memory_gib: float | None = None  # None: 4 on a CPU, 85 % of what is free on a GPU


@dataclass(frozen=True)
class SchedulerOptions:
    max_num_seqs: int = 64  # sequences that decode together
    max_num_batched_tokens: int = 4096  # tokens of one decoder step
    num_scheduler_steps: int = 1  # decoder steps launched per round of the scheduler
    max_waiting_requests: int = 100_000
    encode_timeout: float = (
        600.0  # seconds until encoder work fails that its encoder is silent about
    )
    encode_ahead_tokens: int | None = (
        None  # encoder tokens asked for but not yet in the KV cache; None: max_num_seqs full inputs
    )


@dataclass(frozen=True)
class PlacementOptions:
    ray: bool = True  # False: both halves in this process, without Ray
    address: str | None = (
        None  # of a Ray cluster, as in ray.init; None: the running one, or a local one
    )
    placement: Literal["auto", "colocated", "disaggregated"] = (
        "auto"  # both halves in one process, or each in its own
    )
    num_threads: int | None = None  # torch threads of each worker on a CPU; None: all cores
    startup_timeout: float = 300.0  # seconds


@dataclass(frozen=True)
class EngineConfig:
    model: ModelOptions = field(default_factory=ModelOptions)
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    decoder: DecoderOptions = field(default_factory=DecoderOptions)
    scheduler: SchedulerOptions = field(default_factory=SchedulerOptions)
    placement: PlacementOptions = field(default_factory=PlacementOptions)


SECTIONS: dict[str, Any] = {each.name: each.default_factory for each in fields(EngineConfig)}
OWNER = {option.name: name for name, section in SECTIONS.items() for option in fields(section)}
FROM_ENVIRONMENT = ("encoder_attention_backend", "decoder_attention_backend")


def resolve(
    model: str | os.PathLike[str],
    options: Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
) -> EngineConfig:
    """Flat options to an EngineConfig. None is an option's default; other engines' names for the same are taken.

    Environment variables ANTIPHON_<OPTION> serve for the attention backends. Raises ConfigurationError for an unknown
    name (with the nearest valid one) and for a value of the wrong type or out of range.
    """
    defaults = {
        name: environment[key]
        for name in FROM_ENVIRONMENT
        if (key := f"ANTIPHON_{name.upper()}") in environment
    }
    flat = {
        name: _checked(name, value)
        for name, value in {**defaults, **_by_own_names(options)}.items()
        if value is not None
    }
    flat["model"] = _model_name(model)
    sections = {
        name: section(**{option: value for option, value in flat.items() if OWNER[option] == name})
        for name, section in SECTIONS.items()
    }
    config = EngineConfig(**sections)
    if not config.placement.ray:
        check_one_process(config)
    return config


def check_one_process(config: EngineConfig) -> None:
    """Raises ConfigurationError for what an engine without Ray, in one process, cannot do."""
    replicas = {
        "encoder_replicas": config.encoder.encoder_replicas,
        "decoder_replicas": config.decoder.decoder_replicas,
    }
    for name, count in replicas.items():
        if count != 1:
            raise ConfigurationError(
                f"{name}={count} needs a process for each: leave out ray=False"
            )
    if config.placement.placement == "disaggregated":
        raise ConfigurationError(
            "placement='disaggregated' needs a process for each half: leave out ray=False"
        )
    if config.placement.address is not None:
        raise ConfigurationError(
            f"ray=False joins no cluster: leave out it or address={config.placement.address!r}"
        )


def _by_own_names(options: Mapping[str, Any]) -> dict[str, Any]:
    own: dict[str, Any] = {}
    for given, value in options.items():
        name = foreign.OPTION_ALIASES.get(given, given)
        if name in own:
            raise ConfigurationError(f"'{given}' is another name of '{name}': give one of them")
        if name in OWNER and name != "model":
            own[name] = value
        elif name not in foreign.OPTIONS:
            raise ConfigurationError(f"unknown option '{given}'.{nearest(str(given), list(OWNER))}")
        elif (reason := foreign.refusal(name, value, foreign.OPTIONS)) is not None:
            raise ConfigurationError(reason)
    return own


def _model_name(model: Any) -> str:
    if (
        not isinstance(model, (str, os.PathLike))
        or not (name := os.fspath(model))
        or not isinstance(name, str)
    ):
        raise ConfigurationError(
            f"model must be a folder, a hub id or a size such as 'tiny', not {shown(model)}"
        )
    return name


def _checked(name: str, value: Any) -> Any:
    """The value in the plain form that the option's annotation asks for. All numbers must be above 0."""
    annotation = _HINTS[name]
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    given, value = value, foreign.option_value(name, value)
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        if not isinstance(value, str) or value not in choices:
            remedy = foreign.remedy(name, value)
            raise ConfigurationError(
                f"{name} must be one of {', '.join(choices)}, not {shown(given)}{remedy}"
            )
        return value
    if bool in kinds:
        return _flag(name, value)
    if str in kinds:
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"{name} must be a text that is not empty, not {shown(value)}")
        return value
    return _whole_number(name, value) if int in kinds else _number(name, value)


def _flag(name: str, value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):  # Python's and numpy's
        raise ConfigurationError(f"{name} must be true or false, not {shown(value)}")
    return bool(value)


def _whole_number(name: str, value: Any) -> int:
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if not 0 < number < 2**31:
        raise ConfigurationError(f"{name} must be a whole number above 0, not {shown(value)}")
    return number


def _number(name: str, value: Any) -> float:
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else 0.0
    except OverflowError:
        number = 0.0
    if not 0.0 < number < math.inf:
        raise ConfigurationError(f"{name} must be a number above 0, not {shown(value)}")
    return number


_HINTS: dict[str, Any] = {
    name: hint for section in SECTIONS.values() for name, hint in get_type_hints(section).items()
}
