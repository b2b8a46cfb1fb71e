"""The settings of generation_config.json (of config.json in old checkpoints), typed.

As in transformers, config.json counts only where there is no generation_config.json,
and null means "not set". So do an empty list, mapping or string. Negative ids, lengths
and sizes turn a rule off. Where a whole number is meant, 20.0 is 20.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from antiphon.config.errors import CheckpointError, SamplingError
from antiphon.config.sampling import SamplingParams

Settings = Mapping[str, Any]
Sequences = tuple[tuple[int, ...], ...]

_OBEYED = [
    "decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id",
    "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens",
    "bad_words_ids", "max_length", "max_new_tokens", "min_length", "min_new_tokens",
    "repetition_penalty", "no_repeat_ngram_size", "do_sample", "temperature", "top_k", "top_p",
    "min_p", "num_beams", "length_penalty", "early_stopping", "renormalize_logits",
]  # fmt: skip
# Settings that remain where a caller wants no defaults: no text comes without them.
_OF_THE_VOCABULARY = (
    "decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens",
    "begin_suppress_tokens", "bad_words_ids",
)  # fmt: skip
# Settings that change the text in transformers and not here, with the values that mean
# "off".
_IGNORED: dict[str, tuple[Any, ...]] = {
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "exponential_decay_length_penalty": (),
    "sequence_bias": (),
    "guidance_scale": (1,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "constraints": (),
    "force_words_ids": (),
    "watermarking_config": (),
    "stop_strings": (),
    "token_healing": (False,),
    "max_time": (),
    "num_return_sequences": (1,),
}
_IGNORED_WITH_BEAMS: dict[str, tuple[Any, ...]] = {
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
}
_ONE_BEAM = (1,)
_IGNORED_WHEN_SAMPLING: dict[str, tuple[Any, ...]] = {
    "num_beams": _ONE_BEAM,  # beams are never drawn
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "top_h": (),
}
# How the names of whole numbers end.
_WHOLE = ("_id", "_ids", "_tokens", "_index", "_length", "_size", "_beams", "top_k")
_LEAST_TOP_P = 1e-6  # stands for 0: only the likeliest token is left


def generation_settings(own: Settings | None, config: Settings) -> dict[str, Any]:
    """The settings that count, in plain form: `own` of generation_config.json, or
    without that file those of config.json."""
    if own is not None:
        return plain_settings(own)
    names = [*_OBEYED, *_IGNORED, *_IGNORED_WITH_BEAMS, *_IGNORED_WHEN_SAMPLING]
    settings = {name: config[name] for name in names if config.get(name) is not None}
    if config.get("force_bos_token_to_be_generated"):  # the first BART checkpoints
        settings["forced_bos_token_id"] = config.get("bos_token_id")
    return plain_settings(settings)


def without_defaults(settings: Settings) -> dict[str, Any]:
    """`settings` without those that say how a text is chosen and how long it is.
    Special and barred tokens remain, and settings of a family's own."""
    ignored = (*_IGNORED, *_IGNORED_WITH_BEAMS, *_IGNORED_WHEN_SAMPLING)
    dropped = {*_OBEYED, *ignored} - {*_OF_THE_VOCABULARY}
    return {name: value for name, value in settings.items() if name not in dropped}


def plain_settings(settings: Settings) -> dict[str, Any]:
    """With None for what is empty, and whole numbers as int."""

    def plain(name: str, value: Any) -> Any:
        if isinstance(value, (list, tuple, dict, str)) and not value:
            return None
        return _as_int(value) if name.endswith(_WHOLE) else value

    return {name: plain(name, value) for name, value in settings.items()}


def special_tokens(config: Settings) -> dict[str, Any]:
    """The settings of config.json that name the decoder's start and end tokens."""
    names = ("decoder_start_token_id", "bos_token_id", "eos_token_id")
    return {name: config[name] for name in names if config.get(name) is not None}


def ignored_settings(settings: Settings, samples: bool) -> tuple[str, ...]:
    """'name=value' of the settings that are on in transformers and not obeyed here.
    `samples`: whether the checkpoint draws tokens; some settings count only then."""

    def is_on(name: str, off: tuple[Any, ...]) -> bool:
        value = settings.get(name)
        return value is not None and value not in off

    names = dict(_IGNORED)
    if is_on("num_beams", _ONE_BEAM):
        names |= _IGNORED_WITH_BEAMS
    if samples:
        names |= _IGNORED_WHEN_SAMPLING
    return tuple(f"{name}={settings[name]!r}" for name, off in names.items() if is_on(name, off))


@dataclass(frozen=True)
class SettingsReader:
    """Reads plain settings and checks their types. Every method raises CheckpointError,
    which names the setting and its value."""

    settings: Settings
    vocab_size: int

    def flag(self, name: str) -> bool:
        value = self.settings.get(name)
        if isinstance(value, str):  # "false" is true to Python, and so to transformers
            raise _wrong(name, "be true or false", value)
        return bool(value)

    def count(self, name: str, least: int = 0) -> int | None:
        """A whole number of at least `least`. Where that is 0, a negative number is
        0."""
        value: Any = self.settings.get(name)
        if least == 0 and (value is False or (_is_whole(value) and value < 0)):
            return 0
        if value is not None and (not _is_whole(value) or value < least):
            raise _wrong(name, f"be a whole number from {least} on", value)
        return value

    def sampling(self, name: str) -> Any:
        """A parameter of sampling, in the range that `SamplingParams` allows."""
        value: Any = self.settings.get(name)
        if value is None:
            return None
        if name == "top_p" and value == 0:
            value = _LEAST_TOP_P
        try:
            return getattr(SamplingParams(**{name: value}), name)
        except SamplingError as error:
            raise CheckpointError(f"the generation config's {error}") from None

    def single_id(self, name: str) -> int | None:
        """A token id, the first of several; None for a negative one."""
        ids = self._listed(name)
        if not ids or ids[0] < 0:
            return None
        if ids[0] >= self.vocab_size:
            raise CheckpointError(
                f"{name} of the generation config is {ids[0]}; "
                f"the decoder's vocabulary has 0 to {self.vocab_size - 1}"
            )
        return ids[0]

    def ids(self, name: str) -> tuple[int, ...]:
        """Token ids without those outside the vocabulary, which are never generated
        (old configs write -1 for "none")."""
        return tuple(id_ for id_ in self._listed(name) if self._in_vocabulary(id_))

    def sequences(self, name: str) -> Sequences:
        """Sequences of token ids; none that holds an id outside the vocabulary."""
        value = self.settings.get(name) or []
        if not isinstance(value, list) or not all(
            ids is None or isinstance(ids, list) for ids in value
        ):
            raise CheckpointError(
                f"{name} of the generation config must be a list of lists of token ids"
            )
        sequences = [_ids_of(name, ids) for ids in value if ids]
        return tuple(tuple(ids) for ids in sequences if all(map(self._in_vocabulary, ids)))

    def _listed(self, name: str) -> list[int]:
        return _ids_of(name, self.settings.get(name))

    def _in_vocabulary(self, id_: int) -> bool:
        return 0 <= id_ < self.vocab_size


def _ids_of(name: str, value: Any) -> list[int]:
    ids = [id_ for id_ in (value if isinstance(value, list) else [value]) if id_ is not None]
    if not all(_is_whole(id_) for id_ in ids):
        raise _wrong(name, "hold token ids", value)
    return ids


def _wrong(name: str, rule: str, value: Any) -> CheckpointError:
    return CheckpointError(f"{name} of the generation config must {rule}, not {value!r}")


def _as_int(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_int(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
