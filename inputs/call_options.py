"""Keywords of generate() and stream(), checked before anything runs."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from antiphon.config import foreign
from antiphon.config.errors import ConfigurationError, SamplingError, nearest
from antiphon.config.sampling import SamplingParams

NAMES = ["priority", "timeout", "source_language", "target_language"]
_SAMPLING = {field.name for field in fields(SamplingParams)}


def refuse_unknown(call: str, unknown: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for keywords that `call` does not have; what is known elsewhere says where it goes here."""
    for name in unknown:
        if name in _SAMPLING:
            reason = f": give params=SamplingParams({name}=...)"
        elif name in foreign.SAMPLING:
            reason = f": {foreign.SAMPLING[name][1]}"
        elif name == "language":
            reason = ": give source_language and target_language, or call transcribe()"
        else:
            reason = f".{nearest(name, NAMES)}"
        raise ConfigurationError(f"{call} has no option '{name}'{reason}")


def checked_params(params: Any) -> SamplingParams:
    """None is the defaults. Raises SamplingError for anything else that is no SamplingParams."""
    if params is None:
        return SamplingParams()
    if not isinstance(params, SamplingParams):
        hint = "; a mapping becomes one by SamplingParams.of(...)" if isinstance(params, Mapping) else ""
        raise SamplingError(f"params must be SamplingParams, not {type(params).__name__}{hint}")
    return params
