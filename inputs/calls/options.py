"""What calls have in common: keywords, parameters, and prompts or recordings as a whole."""

import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Number
from types import NoneType
from typing import Any

from antiphon.config import foreign_sampling
from antiphon.config.errors import ConfigurationError, PromptError, SamplingError, nearest
from antiphon.config.foreign import shown
from antiphon.config.option_values import LARGEST
from antiphon.config.sampling import SamplingParams

NAMES = ["priority", "timeout", "source_language", "target_language"]
DETECTION_NAMES = ["priority", "timeout"]
ENCODE_NAMES = ["pooled", "object_refs", "timeout"]
Params = SamplingParams | Sequence[SamplingParams | None] | None  # one for all prompts, or one each
_TRANSFORMERS_NAMES = {"src_lang": "source_language", "tgt_lang": "target_language"}
_SAMPLING = {field.name for field in fields(SamplingParams)}


def refuse_unknown(call: str, unknown: Mapping[str, Any], valid: list[str] = NAMES) -> None:
    """Raises ConfigurationError for keywords that `call` does not have. For names that have their
    place elsewhere, the message says where."""
    for name in unknown:
        if valid is not NAMES:
            reason = f".{nearest(name, valid)}"
        elif name in _SAMPLING:
            reason = f": give params=SamplingParams({name}=...)"
        elif name in foreign_sampling.NOT_HONORED:
            reason = f": {foreign_sampling.NOT_HONORED[name][1]}"
        elif name in _TRANSFORMERS_NAMES:
            reason = f": give {_TRANSFORMERS_NAMES[name]}="
        elif name == "language":
            reason = ": give source_language and target_language, or call transcribe()"
        else:
            reason = f".{nearest(name, valid)}"
        raise ConfigurationError(f"{call} has no option '{name}'{reason}")


def one_of(params: Any, sampling_params: Any) -> Any:
    """`params`, or `sampling_params`, which is vLLM's name for the same.

    Raises SamplingError where a call has both.
    """
    if params is not None and sampling_params is not None:
        raise SamplingError("params and sampling_params are the same: give one of them")
    return sampling_params if params is None else params


def checked_params(params: Any, sampling_params: Any = None) -> SamplingParams:
    """The parameters of a call; None stands for the defaults.

    Raises SamplingError for anything that is no SamplingParams.
    """
    params = one_of(params, sampling_params)
    if params is None:
        return SamplingParams()
    if not isinstance(params, SamplingParams):
        is_mapping = isinstance(params, Mapping)
        hint = "; a mapping becomes one by SamplingParams.of(...)" if is_mapping else ""
        raise SamplingError(f"params must be SamplingParams, not {type(params).__name__}{hint}")
    return params


def check_token_ids(params: SamplingParams, vocab_size: int) -> None:
    """Raises SamplingError for token ids outside the vocabulary."""
    for name in ("stop_token_ids", "logit_bias", "allowed_token_ids", "logprob_token_ids"):
        for id_ in getattr(params, name) or ():
            if not 0 <= id_ < vocab_size:
                raise SamplingError(
                    f"{name} has token id {id_}; the vocabulary has 0 to {vocab_size - 1}",
                    parameter=name,
                )


def checked_priority(priority: Any) -> int:
    """A whole number; None stands for the default, 0. Raises PromptError."""
    if priority is None:
        return 0
    if type(priority) is not int and (  # most are, and asking for the other types takes long
        type(priority).__name__ in ("bool", "bool_") or not isinstance(priority, Integral)
    ):
        raise PromptError(
            f"priority must be a whole number (lower runs first), not {shown(priority)}",
            parameter="priority",
        )
    if abs(int(priority)) > LARGEST:
        raise PromptError(
            f"priority must be between -{LARGEST} and {LARGEST}, not {shown(int(priority))}",
            parameter="priority",
        )
    return int(priority)


def all_prompts(prompts: Any) -> list[Any]:
    """The prompts of a call as a list. Raises PromptError for neither a prompt nor several."""
    if isinstance(prompts, (str, Mapping)):
        return [prompts]
    if not isinstance(prompts, Iterable) or isinstance(prompts, (bytes, bytearray, memoryview)):
        raise PromptError(
            f"prompts must be a str, a mapping or a list of them, not {_type_name(prompts)}"
        )
    return list(prompts)


def check_recordings(recordings: Any) -> None:
    """Raises PromptError for a single recording, in any form, where several are expected."""
    if is_one_recording(recordings):
        raise PromptError(
            f"give a list of recordings, not {_of_one(recordings)}; "
            "for a single one there is transcribe()"
        )
    if not isinstance(recordings, Iterable) and not hasattr(recordings, "__getitem__"):
        raise PromptError(f"give a list of recordings, not {_type_name(recordings)}")


def is_one_recording(value: Any) -> bool:
    """Whether `value` is a recording, in any form of `AudioInput`, and not several."""
    if isinstance(value, (str, bytes, bytearray, memoryview, array, os.PathLike, Mapping)):
        return True
    if callable(getattr(value, "read", None)) or callable(getattr(value, "get_all_samples", None)):
        return True
    if hasattr(value, "sample_rate") and hasattr(value, "data"):  # torchcodec's AudioSamples
        return True
    if getattr(value, "ndim", 2) < 2:  # an array or tensor: of samples, or of strings and objects
        return getattr(getattr(value, "dtype", None), "kind", "f") in "biufc"
    if not isinstance(value, (list, tuple)) or not value:
        return False
    if isinstance(value, tuple) and len(value) == 2:  # (samples, rate) or (rate, samples)
        return any(isinstance(item, Number) for item in value)
    return all(isinstance(item, Number) for item in value)


def _of_one(recording: Any) -> str:
    name = _type_name(recording)
    return f"one recording's {name} of numbers" if isinstance(recording, list) else name


def _type_name(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def one_each(
    params: Params, sampling_params: Params, count: int
) -> Sequence[SamplingParams | None]:
    """The parameters of each of `count` prompts. Raises SamplingError."""
    chosen = one_of(params, sampling_params)
    if chosen is None or isinstance(chosen, SamplingParams):
        return [chosen] * count
    if not isinstance(chosen, Sequence):
        raise SamplingError(
            f"params must be SamplingParams, or a list of them; not {type(chosen).__name__}"
        )
    for index, entry in enumerate(chosen):
        if not isinstance(entry, (SamplingParams, NoneType)):
            raise SamplingError(
                "params must be SamplingParams, or a list of them; "
                f"number {index} is {type(entry).__name__}"
            )
    if len(chosen) != count:
        raise SamplingError(
            f"{len(chosen)} sampling parameters for {count} prompts: give one for all, or one each"
        )
    return chosen
