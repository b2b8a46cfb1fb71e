"""GPTQ's and AWQ's `quantization_config`: weights of four or eight bits in groups of inputs."""

from collections.abc import Mapping
from typing import Any

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.quantization.scheme import (
    EVERY,
    EVERY_LINEAR,
    Rule,
    Scheme,
    StoredQuantization,
    WeightScheme,
)

LAYOUTS = ("gptq", "gptq_v2")  # they differ in their zeros: the first subtracts 1 of each
OVERRIDES = ("bits", "group_size", "sym")  # what a rule for some layers changes


def read_gptq(settings: Mapping[str, Any]) -> StoredQuantization:
    """AutoGPTQ's and GPTQModel's. The order of inputs (`desc_act`) is stored with each layer."""
    layout = settings.get("checkpoint_format") or settings.get("format") or "gptq"
    if layout not in LAYOUTS or settings.get("is_marlin_format"):
        name = "marlin" if layout in LAYOUTS else layout
        raise UnsupportedModelError(
            f"GPTQ's format {name} is not read ({', '.join(LAYOUTS)} are): save the model in one "
            "of those"
        )
    if (words := settings.get("pack_dtype") or "int32") != "int32":
        raise UnsupportedModelError(f"GPTQ's numbers in words of {words} are not read: int32 are")
    kept_out, rules = [], []
    for pattern, changes in (settings.get("dynamic") or {}).items():
        if pattern.startswith("-:"):
            kept_out.append("re:" + pattern.removeprefix("-:"))
        else:
            own = {**settings, **{key: changes[key] for key in OVERRIDES if key in changes}}
            rules.append(Rule(("re:" + pattern.removeprefix("+:"),), _scheme(own, layout)))
    rules.append(Rule(EVERY_LINEAR, _scheme(settings, layout)))
    return StoredQuantization("gptq", tuple(rules), tuple(kept_out))


def _scheme(settings: Mapping[str, Any], layout: str) -> Scheme:
    bits = settings["bits"]
    if bits not in (4, 8):
        raise UnsupportedModelError(f"GPTQ's weights of {bits} bits are not read: 4 and 8 are")
    symmetric = bool(settings.get("sym", True))
    return Scheme(WeightScheme("int", bits, (1, _group(settings)), symmetric, layout))


def read_awq(settings: Mapping[str, Any]) -> StoredQuantization:
    """AutoAWQ's, in the version "gemm"."""
    layout = str(settings.get("version") or settings.get("format") or "gemm").lower()
    if layout != "gemm":
        raise UnsupportedModelError(f"AWQ's version {layout} is not read: save it as gemm")
    bits = settings.get("bits", settings.get("w_bit", 4))
    if bits != 4:
        raise UnsupportedModelError(f"AWQ's weights of {bits} bits are not read: 4 are")
    if not settings.get("zero_point", True):
        raise UnsupportedModelError("AWQ's weights without zero points are not read")
    weights = WeightScheme("int", 4, (1, _group(settings)), symmetric=False, layout=layout)
    kept_out = tuple(settings.get("modules_to_not_convert") or ())
    return StoredQuantization("awq", (Rule(EVERY_LINEAR, Scheme(weights)),), kept_out)


def _group(settings: Mapping[str, Any]) -> int:
    """Inputs that share a scale."""
    size = int(settings.get("group_size", settings.get("q_group_size", 128)))
    return EVERY if size == -1 else size
