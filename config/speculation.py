"""Options of speculative decoding: who drafts tokens, how many, and under which load.

The decoder verifies several drafted tokens of a sequence in one step (Leviathan et al.
2023). Which tokens come out does not depend on it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from antiphon.config.errors import ConfigurationError, nearest
from antiphon.config.option_table import option

MAX_TOKENS = 15  # drafted at once; a step asks for one page at most for each sequence


@dataclass(frozen=True)
class SpeculationOptions:
    """Of the decoder. Together they are `speculative_config`."""

    speculative_method: Literal["none", "ngram", "draft_model"] = option(
        "none",
        "who drafts tokens that a decoder verifies several at a time: ngram looks them up in the "
        "input and in what was written; draft_model: a smaller decoder",
    )
    speculative_model: str | None = option(
        None, "the draft model: a checkpoint with the same encoder, such as Distil-Whisper"
    )
    speculative_revision: str | None = option(None, "of the draft model")
    num_speculative_tokens: int = option(4, "drafted at once for each sequence, at most")
    prompt_lookup_max: int = option(4, "tokens that must agree where ngram looks up, at most")
    prompt_lookup_min: int = option(2, "the same, at least")
    speculative_disable_by_batch_size: int = option(
        8, "no drafts while more sequences than this run"
    )
    speculative_same_encoder: bool = option(
        False, "the draft model's encoder is known to be the same: it is not compared"
    )

    @property
    def drafts(self) -> bool:
        return self.speculative_method != "none"


# Keys of `speculative_config`, as other engines have them too, and the option that each
# stands for.
CONFIG_KEYS = {
    "method": "speculative_method",
    "model": "speculative_model",
    "revision": "speculative_revision",
    "num_speculative_tokens": "num_speculative_tokens",
    "prompt_lookup_max": "prompt_lookup_max",
    "prompt_lookup_min": "prompt_lookup_min",
    "disable_by_batch_size": "speculative_disable_by_batch_size",
    "same_encoder": "speculative_same_encoder",
}


def flat_options(config: Any) -> dict[str, Any]:
    """The options that `speculative_config` stands for: a mapping, or its JSON text. A
    model without a method is a draft model.

    Raises ConfigurationError for another value, or a key that is none of CONFIG_KEYS.
    """
    if config is None:
        return {}
    if isinstance(config, str):
        try:
            config = json.loads(config)
        except ValueError as error:
            raise ConfigurationError(f"speculative_config is no JSON: {error}") from error
    if not isinstance(config, Mapping):
        raise ConfigurationError(
            "speculative_config must be a mapping such as {'method': 'ngram', "
            f"'num_speculative_tokens': 4}}, not {type(config).__name__}"
        )
    for key in config:
        if key not in CONFIG_KEYS:
            raise ConfigurationError(
                f"speculative_config has no key '{key}'.{nearest(str(key), list(CONFIG_KEYS))}"
            )
    options = {CONFIG_KEYS[key]: value for key, value in config.items()}
    if options.get("speculative_model") in ("ngram", "[ngram]"):
        options |= {"speculative_model": None, "speculative_method": "ngram"}
    elif options.get("speculative_model") is not None:
        options.setdefault("speculative_method", "draft_model")
    return options


def check_speculation(options: SpeculationOptions, num_stages: int) -> None:
    """Raises ConfigurationError for options that exclude each other. `num_stages`: of
    the decoder's pipeline."""
    method, model = options.speculative_method, options.speculative_model
    if method == "draft_model" and model is None:
        raise ConfigurationError(
            "speculative_method='draft_model' needs speculative_model, a checkpoint with the same "
            "encoder; or give speculative_method='ngram', which needs none"
        )
    if method != "draft_model" and model is not None:
        raise ConfigurationError(
            f"speculative_model={model!r} drafts only with speculative_method='draft_model', not "
            f"{method!r}: leave out one of them"
        )
    if options.num_speculative_tokens > MAX_TOKENS:
        raise ConfigurationError(
            f"num_speculative_tokens={options.num_speculative_tokens} is over {MAX_TOKENS}"
        )
    if options.prompt_lookup_min > options.prompt_lookup_max:
        raise ConfigurationError(
            f"prompt_lookup_min={options.prompt_lookup_min} is over "
            f"prompt_lookup_max={options.prompt_lookup_max}"
        )
    if options.drafts and num_stages > 1:
        raise ConfigurationError(
            f"speculative_method={method!r}: the {num_stages} stages of a pipeline do not wait for "
            "each other's tokens, as drafts need it: give decoder_pipeline_parallel_size=1, and "
            "decoder_tensor_parallel_size for several GPUs"
        )
