"""Hugging Face's two float8 methods: `fp8` (fine-grained, as DeepSeek's models), `fbgemm_fp8`."""

from collections.abc import Mapping
from typing import Any

from antiphon.config.errors import UnsupportedModelError
from antiphon.families.quantization.scheme import (
    EVERY,
    EVERY_LINEAR,
    InputScheme,
    Rule,
    Scheme,
    StoredQuantization,
    WeightScheme,
)


def read_fp8(settings: Mapping[str, Any]) -> StoredQuantization:
    """A scale for each block of 128 by 128 weights or, without blocks, for each tensor."""
    block = settings.get("weight_block_size")
    if (form := settings.get("scale_fmt") or "float") not in ("float", "ue8m0"):
        raise UnsupportedModelError(f"fp8's scales in the form {form} are not read")
    static = settings.get("activation_scheme", "dynamic") == "static"
    if static and block:
        raise UnsupportedModelError("fp8 with blocks and static scales of inputs is not read")
    rows, columns = block or (EVERY, EVERY)
    weights = WeightScheme("float", 8, (int(rows), int(columns)), layout="fp8")
    inputs = InputScheme("float", dynamic=not static, group=int(columns))
    return _stored("fp8", settings, Scheme(weights, inputs))


def read_fbgemm_fp8(settings: Mapping[str, Any]) -> StoredQuantization:
    """A scale for each output; tokens' largest elements are cut at `activation_scale_ub`."""
    inputs = InputScheme("float", limit=float(settings.get("activation_scale_ub", 1200.0)))
    scheme = Scheme(WeightScheme("float", 8, layout="fbgemm_fp8"), inputs)
    return _stored("fbgemm_fp8", settings, scheme)


def _stored(method: str, settings: Mapping[str, Any], scheme: Scheme) -> StoredQuantization:
    kept_out = settings.get("modules_to_not_convert") or settings.get("ignored_layers") or ()
    return StoredQuantization(method, (Rule(EVERY_LINEAR, scheme),), tuple(kept_out))
