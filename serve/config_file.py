"""`antiphon serve --config FILE`: the same options in YAML."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from antiphon.config.errors import ConfigurationError, nearest
from antiphon.serve.command import Plan
from antiphon.serve.keys import read_keys
from antiphon.serve.settings import Limits, ServerSettings

SERVER = (
    "host", "port", "api_keys", "api_key_file", "insecure", "replicas", "otlp_traces_endpoint",
    "log_format",
)  # fmt: skip
OF_SETTINGS = ("host", "port", "insecure", "otlp_traces_endpoint", "log_format")
SECTIONS = ("models", "limits", "engine")
LIMITS = tuple(field.name for field in fields(Limits))
NAMED_MODEL = re.compile(r"([\w.:-]+)=(.+)")


def read_config(path: Path) -> dict[str, Any]:
    """The file's options, by name. Raises ConfigurationError."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: no valid YAML: {error}") from None
    return checked_config(str(path), {} if content is None else content)


def checked_config(
    place: str, content: Any, names: Iterable[str] = (*SERVER, *SECTIONS)
) -> dict[str, Any]:
    """The options of `content`, by name. Raises ConfigurationError for what is not among `names`.
    `place`: where it is from."""
    _check_names(place, "an option", content, names)
    _check_names(place, "a limit", content.get("limits") or {}, LIMITS)
    if not isinstance(content.get("engine") or {}, dict):
        raise ConfigurationError(f"{place}: 'engine' must be a mapping of engine options")
    return {name: value for name, value in content.items() if value is not None}


def _check_names(place: str, kind: str, content: Any, valid: Iterable[str]) -> None:
    valid = list(valid)
    if not isinstance(content, dict):
        raise ConfigurationError(f"{place}: {kind.split()[-1]}s must be a mapping of names")
    for name in content:
        if name not in valid:
            raise ConfigurationError(f"{place}: no {kind} '{name}'.{nearest(str(name), valid)}")


def plan_of(options: Mapping[str, Any]) -> Plan:
    """Of options as a file has them, whose names are checked. Raises ConfigurationError."""
    settings = ServerSettings(
        api_keys=_keys(options),
        limits=_limits(options.get("limits", {})),
        **{name: options[name] for name in OF_SETTINGS if name in options},
    )
    models = named_models(options.get("models") or [])
    return Plan(settings, models, options.get("engine", {}), options.get("replicas", 1))


def _limits(values: Mapping[str, Any]) -> Limits:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigurationError(f"limits: {name} must be a number, not {value!r}")
    return Limits(**values)


def _keys(options: Mapping[str, Any]) -> tuple[str, ...]:
    keys = [*(options.get("api_keys") or ())]
    if variable := os.environ.get("ANTIPHON_API_KEY"):
        keys.append(variable)
    if (path := options.get("api_key_file")) is not None:
        keys += read_keys(Path(path))
    return tuple(str(key) for key in keys)


def named_models(models: Any) -> dict[str, str]:
    """Checkpoints by the name that clients send: of a list of MODEL or NAME=MODEL, or a mapping.

    Raises ConfigurationError for anything else, and for a name that is there twice.
    """
    if isinstance(models, Mapping):
        pairs = [(str(name), model) for name, model in models.items()]
    elif isinstance(models, (list, tuple)):
        pairs = [_pair(model) for model in models]
    else:
        pairs = [_pair(models)]
    named: dict[str, str] = {}
    for name, model in pairs:
        if not isinstance(model, str) or not model:
            raise ConfigurationError(f"the model of '{name}' must be a hub id or a folder")
        if name in named:
            raise ConfigurationError(f"two models are called '{name}': write NAME=MODEL")
        named[name] = model
    return named


def _pair(model: Any) -> tuple[str, Any]:
    match = NAMED_MODEL.fullmatch(model) if isinstance(model, str) else None
    if match is None or Path(model).exists():
        return str(model), model
    return match[1], match[2]
