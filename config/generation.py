"""What a checkpoint says about generating: generation_config.json, or in old checkpoints config.json.

As in transformers, generation_config.json alone counts where it is there, and null in it means "not set". So do an empty
list, object or text, and negative ids, lengths and sizes, which all turn a rule off there; 20.0 is 20, where a number is whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from antiphon.config.errors import CheckpointError, SamplingError
from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams

Settings = Mapping[str, Any]
Sequences = tuple[tuple[int, ...], ...]

TOP_K_WHEN_SAMPLING = 50  # transformers' default, which a checkpoint with do_sample was tuned for
_OBEYED = [
    "decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id", "forced_bos_token_id", "forced_eos_token_id",
    "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "max_length", "max_new_tokens", "min_length", "min_new_tokens",
    "repetition_penalty", "no_repeat_ngram_size", "do_sample", "temperature", "top_k", "top_p", "min_p",
]  # fmt: skip
# Settings that change the text in transformers and not here, with the values that mean "off".
_IGNORED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
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
_IGNORED_OF_BEAMS: dict[str, tuple[Any, ...]] = {
    "length_penalty": (1,),
    "early_stopping": (False,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
}
_IGNORED_OF_SAMPLING: dict[str, tuple[Any, ...]] = {
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "top_h": (),
}


_WHOLE = (
    "_id",
    "_ids",
    "_tokens",
    "_index",
    "_length",
    "_size",
    "top_k",
)  # ends of names of what is a whole number
_LEAST_TOP_P = 1e-6  # of 0, which leaves the likeliest token alone


def generation_settings(own: Settings | None, config: Settings) -> dict[str, Any]:
    """The settings that count, in plain form: `own`, of generation_config.json, or where there is none those of config.json."""
    if own is not None:
        return _plain(own)
    names = [*_OBEYED, *_IGNORED, *_IGNORED_OF_BEAMS, *_IGNORED_OF_SAMPLING]
    settings = {name: config[name] for name in names if config.get(name) is not None}
    if config.get("force_bos_token_to_be_generated"):  # of the first BART checkpoints
        settings["forced_bos_token_id"] = config.get("bos_token_id")
    return _plain(settings)


def _plain(settings: Settings) -> dict[str, Any]:
    def plain(name: str, value: Any) -> Any:
        if isinstance(value, (list, tuple, dict, str)) and not value:
            return None
        return _whole(value) if name.endswith(_WHOLE) else value

    return {name: plain(name, value) for name, value in settings.items()}


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class GenerationDefaults:
    """The settings in plain form. None: the checkpoint says nothing, or says null."""

    start_id: int | None = None  # of the decoder's prompt
    end_ids: tuple[int, ...] = ()
    max_length: int | None = None  # with the decoder's prompt
    max_new_tokens: int | None = None  # goes before max_length
    min_length: int | None = None  # with the decoder's prompt
    min_new_tokens: int | None = None  # goes before min_length
    temperature: float | None = None  # only where the checkpoint samples
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram: int = 0
    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()
    bad_words: Sequences = ()  # of two tokens and more; single ones are in `suppress`
    forced_first: int | None = None
    forced_last: int | None = None
    ignored: tuple[str, ...] = ()  # "name=value" of what is set but not obeyed

    @classmethod
    def of(cls, settings: Settings, config: Settings, vocab_size: int) -> "GenerationDefaults":
        """Raises CheckpointError for values of the wrong type, and for start and forced ids outside the vocabulary.

        `config`: of config.json, for special tokens that `settings` does not name.
        """
        settings = _plain(settings)
        read = _Reader(settings, vocab_size)
        special = _Reader({**_specials(config), **settings}, vocab_size)
        start = special.single_id("decoder_start_token_id")
        end_ids = special.ids("eos_token_id")
        bad_words = tuple(
            words
            for words in read.sequences("bad_words_ids")
            if words not in [(end,) for end in end_ids]
        )
        sampled = read.flag("do_sample")
        temperature, top_k = read.sampling("temperature"), read.sampling("top_k")
        return cls(
            start_id=special.single_id("bos_token_id") if start is None else start,
            end_ids=end_ids,
            max_length=read.count("max_length", least=1),
            max_new_tokens=read.count("max_new_tokens", least=1),
            min_length=read.count("min_length"),
            min_new_tokens=read.count("min_new_tokens"),
            temperature=(1.0 if temperature is None else temperature) if sampled else None,
            top_k=TOP_K_WHEN_SAMPLING if top_k is None and sampled else top_k,
            top_p=read.sampling("top_p"),
            min_p=read.sampling("min_p"),
            repetition_penalty=read.sampling("repetition_penalty"),
            no_repeat_ngram=read.count("no_repeat_ngram_size") or 0,
            suppress=tuple(
                sorted(
                    {
                        *read.ids("suppress_tokens"),
                        *(words[0] for words in bad_words if len(words) == 1),
                    }
                )
            ),
            begin_suppress=read.ids("begin_suppress_tokens"),
            bad_words=tuple(words for words in bad_words if len(words) > 1),
            forced_first=read.single_id("forced_bos_token_id"),
            forced_last=read.single_id("forced_eos_token_id"),
            ignored=_ignored(settings, sampled),
        )

    def complete(self, params: SamplingParams) -> SamplingParams:
        """`params` with these settings where the caller left them open."""
        values: dict[str, Any] = {}
        if params.leaves_open("temperature") and self.temperature is not None:
            values["temperature"] = self.temperature
        draws = values.get("temperature", params.temperature) > 0
        names = ["repetition_penalty", *(["top_k", "top_p", "min_p"] if draws else [])]
        for name in names:
            if params.leaves_open(name) and getattr(self, name) is not None:
                values[name] = getattr(self, name)
        return replace(params, **values) if values else params

    def max_tokens(
        self, prompt_len: int, params: SamplingParams, positions: int, free_prompt: int = 0
    ) -> int:
        """New tokens: as the caller says, else as the checkpoint does, else what the `positions` leave.

        `free_prompt`: tokens of the prompt that max_length does not count.
        """
        if params.max_tokens is not None:
            return params.max_tokens
        room = positions - prompt_len
        if self.max_new_tokens is not None:
            room = min(room, self.max_new_tokens)
        elif self.max_length is not None:
            room = min(room, self.max_length + free_prompt - prompt_len)
        return max(1, room)

    def rules(self, prompt_len: int, params: SamplingParams) -> DecodingRules:
        """For a decoder prompt of `prompt_len` tokens."""
        ends = () if params.ignore_eos else self.end_ids
        return DecodingRules(
            stop_ids=tuple(dict.fromkeys((*ends, *params.stop_token_ids))),
            suppress=self.suppress,
            begin_suppress=self.begin_suppress,
            # A longer prompt has said already what the first token should be (a language, say).
            forced_first=self.forced_first if prompt_len == 1 else None,
            forced_last=None if params.ignore_eos else self.forced_last,
            min_tokens=self._min_tokens(prompt_len)
            if params.leaves_open("min_tokens")
            else params.min_tokens,
            no_repeat_ngram=self.no_repeat_ngram,
            bad_words=self.bad_words,
        )

    def _min_tokens(self, prompt_len: int) -> int:
        if self.min_new_tokens is not None:
            return self.min_new_tokens
        return max(0, (self.min_length or 0) - prompt_len)


def _specials(config: Settings) -> dict[str, Any]:
    names = ("decoder_start_token_id", "bos_token_id", "eos_token_id")
    return {name: config[name] for name in names if config.get(name) is not None}


def _ignored(settings: Settings, sampled: bool) -> tuple[str, ...]:
    def asked(name: str, off: tuple[Any, ...]) -> bool:
        value = settings.get(name)
        return value is not None and value not in off

    names = dict(_IGNORED)
    if asked("num_beams", (1,)):
        names |= _IGNORED_OF_BEAMS
    if sampled:
        names |= _IGNORED_OF_SAMPLING
    return tuple(f"{name}={settings[name]!r}" for name, off in names.items() if asked(name, off))


@dataclass(frozen=True)
class _Reader:
    """Settings with their types checked."""

    settings: Settings
    vocab_size: int

    def flag(self, name: str) -> bool:
        value = self.settings.get(name)
        if isinstance(value, str):  # "false" is true to Python, and so to transformers
            raise CheckpointError(
                f"{name} of the generation config must be true or false, not {value!r}"
            )
        return bool(value)

    def count(self, name: str, least: int = 0) -> int | None:
        """From `least` on. What may be 0 is off for anything below, too."""
        value: Any = self.settings.get(name)
        if least == 0 and (value is False or (_is_whole(value) and value < 0)):
            return 0
        if value is not None and (not _is_whole(value) or value < least):
            raise CheckpointError(
                f"{name} of the generation config must be a whole number from {least} on, not {value!r}"
            )
        return value

    def sampling(self, name: str) -> Any:
        """A field of SamplingParams, which knows its range."""
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
        """The first of several. A negative one is none."""
        ids = self._listed(name)
        if ids and ids[0] < 0:
            return None
        if ids and ids[0] >= self.vocab_size:
            raise CheckpointError(
                f"{name} of the generation config is {ids[0]}; the decoder's vocabulary has 0 to {self.vocab_size - 1}"
            )
        return ids[0] if ids else None

    def ids(self, name: str) -> tuple[int, ...]:
        """Ids outside the vocabulary are dropped: they are never generated (-1 is "none" in old configs)."""
        return tuple(id_ for id_ in self._listed(name) if 0 <= id_ < self.vocab_size)

    def sequences(self, name: str) -> Sequences:
        value = self.settings.get(name) or []
        if not isinstance(value, list) or not all(
            ids is None or isinstance(ids, list) for ids in value
        ):
            raise CheckpointError(
                f"{name} of the generation config must be a list of lists of token ids"
            )
        sequences = [_Reader({name: ids}, self.vocab_size)._listed(name) for ids in value if ids]
        return tuple(
            tuple(ids) for ids in sequences if all(0 <= id_ < self.vocab_size for id_ in ids)
        )

    def _listed(self, name: str) -> list[int]:
        value = self.settings.get(name)
        values = [id_ for id_ in (value if isinstance(value, list) else [value]) if id_ is not None]
        if not all(_is_whole(id_) for id_ in values):
            raise CheckpointError(
                f"{name} of the generation config must hold token ids, not {value!r}"
            )
        return values


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
