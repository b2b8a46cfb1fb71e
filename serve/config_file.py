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
LIMITS = {field.name: field.type for field in fields(Limits)}
TEXT, PATH, FLAG = "text", "a path", "true or false"
WHOLE, NUMBER = "a whole number", "a number"
KINDS: dict[str, tuple[type, ...]] = {
    TEXT: (str,), FLAG: (bool,), WHOLE: (int,), NUMBER: (int, float), PATH: (str,),
}  # fmt: skip
EXPECTED = {
    "host": TEXT, "port": WHOLE, "insecure": FLAG, "replicas": WHOLE, "log_format": TEXT,
    "otlp_traces_endpoint": TEXT, "api_key_file": PATH,
}  # fmt: skip
NAMED_MODEL = re.compile(r"([\w.:-]+)=(.+)")


def read_config(path: Path) -> dict[str, Any]:
    """The file's options, by name. Raises ConfigurationError."""
    try:
        content = yaml.safe_load(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: no valid YAML: {error}") from None
    return checked_config(str(path), {} if content is None else content)


def checked_config(
    place: str, content: Any, names: Iterable[str] = (*SERVER, *SECTIONS)
) -> dict[str, Any]:
    """The options of `content`, by name, and `api_keys` as a list. Raises ConfigurationError for
    what is not among `names`, and for values of the wrong type. `place`: where it is from."""
    _check_names(place, "option", content, names)
    options = {name: value for name, value in content.items() if value is not None}
    limits = options.get("limits", {})
    _check_names(place, "limit", limits, LIMITS)
    if not isinstance(options.get("engine", {}), dict):
        raise ConfigurationError(f"{place}: 'engine' must be a mapping of engine options")
    if "api_keys" in options:
        keys = options["api_keys"]
        options["api_keys"] = keys = keys if isinstance(keys, list) else [keys]
        for key in keys:
            _check_kind(f"{place}: a key of api_keys", key, TEXT)
    for name, expected in EXPECTED.items():
        if name in options:
            _check_kind(f"{place}: {name}", options[name], expected)
    for name, value in limits.items():
        _check_kind(f"{place}: limits: {name}", value, WHOLE if LIMITS[name] is int else NUMBER)
    return options


def _check_kind(name: str, value: Any, expected: str) -> None:
    """Raises ConfigurationError, which does not show the value: it may be a secret."""
    kinds = KINDS[expected]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        advice = ": put it in quotes" if expected == TEXT and is_number else ""
        raise ConfigurationError(
            f"{name} must be {expected}, not a value of type {type(value).__name__}{advice}"
        )


def _check_names(place: str, kind: str, content: Any, valid: Iterable[str]) -> None:
    valid = list(valid)
    if not isinstance(content, dict):
        raise ConfigurationError(f"{place}: {kind}s must be a mapping of names")
    for name in content:
        if name not in valid:
            raise ConfigurationError(f"{place}: no {kind} '{name}'.{nearest(str(name), valid)}")


def plan_of(options: Mapping[str, Any]) -> Plan:
    """Of options as `checked_config` gives them. Raises ConfigurationError."""
    settings = ServerSettings(
        api_keys=_keys(options),
        limits=Limits(**options.get("limits", {})),
        **{name: options[name] for name in OF_SETTINGS if name in options},
    )
    models = named_models(options.get("models") or [])
    return Plan(settings, models, options.get("engine", {}), options.get("replicas", 1))


def _keys(options: Mapping[str, Any]) -> tuple[str, ...]:
    keys = list(options.get("api_keys", ()))
    if variable := os.environ.get("ANTIPHON_API_KEY"):
        keys.append(variable)
    if (path := options.get("api_key_file")) is not None:
        keys += read_keys(Path(path))
    return tuple(keys)


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
