"""A checkpoint's generation settings, and how a caller's parameters go with them."""

from dataclasses import dataclass, replace
from typing import Any

from antiphon.config.beam_settings import BeamDefaults
from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.generation_settings import (
    Sequences,
    Settings,
    SettingsReader,
    ignored_settings,
    plain_settings,
    special_tokens,
)
from antiphon.config.sampling import SamplingParams

TOP_K_WHEN_SAMPLING = 50  # transformers' default, which checkpoints with do_sample were tuned for


@dataclass(frozen=True)
class GenerationDefaults:
    """A checkpoint's settings. None: it says nothing, or null.

    max_length and min_length count the decoder's prompt; max_new_tokens and
    min_new_tokens do not, and take precedence over them.
    """

    start_id: int | None = None  # the first token of the decoder's prompt
    end_ids: tuple[int, ...] = ()
    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    temperature: float | None = None  # None unless the checkpoint samples
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram: int = 0
    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()
    bad_words: Sequences = ()  # of two or more tokens; single tokens are in `suppress`
    forced_first: int | None = None
    forced_last: int | None = None
    beams: BeamDefaults = BeamDefaults()
    ignored: tuple[str, ...] = ()  # "name=value" of settings that are not obeyed

    @classmethod
    def of(cls, settings: Settings, config: Settings, vocab_size: int) -> "GenerationDefaults":
        """From the generation settings; `config`, of config.json, has the special
        tokens that `settings` does not name.

        Raises CheckpointError for values of the wrong type, and for start and forced
        ids outside the vocabulary.
        """
        settings = plain_settings(settings)
        read = SettingsReader(settings, vocab_size)
        special = SettingsReader({**special_tokens(config), **settings}, vocab_size)
        end_ids = special.ids("eos_token_id")
        bad_words = [
            words
            for words in read.sequences("bad_words_ids")
            if words not in [(end,) for end in end_ids]
        ]
        single_words = {words[0] for words in bad_words if len(words) == 1}
        samples = read.flag("do_sample")
        temperature, top_k = read.sampling("temperature"), read.sampling("top_k")
        return cls(
            start_id=_start_id(read, special),
            end_ids=end_ids,
            max_length=read.count("max_length", least=1),
            max_new_tokens=read.count("max_new_tokens", least=1),
            min_length=read.count("min_length"),
            min_new_tokens=read.count("min_new_tokens"),
            temperature=(1.0 if temperature is None else temperature) if samples else None,
            top_k=TOP_K_WHEN_SAMPLING if top_k is None and samples else top_k,
            top_p=read.sampling("top_p"),
            min_p=read.sampling("min_p"),
            repetition_penalty=read.sampling("repetition_penalty"),
            no_repeat_ngram=read.count("no_repeat_ngram_size") or 0,
            suppress=tuple(sorted({*read.ids("suppress_tokens"), *single_words})),
            begin_suppress=read.ids("begin_suppress_tokens"),
            bad_words=tuple(words for words in bad_words if len(words) > 1),
            forced_first=read.single_id("forced_bos_token_id"),
            forced_last=read.single_id("forced_eos_token_id"),
            beams=BeamDefaults.of(read),
            ignored=ignored_settings(settings, samples),
        )

    def complete(self, params: SamplingParams) -> SamplingParams:
        """`params` with these settings where the caller left them open."""
        values: dict[str, Any] = {}
        draws = self.temperature is not None and params.beam_size == 1
        if params.leaves_open("temperature") and draws:
            values["temperature"] = self.temperature
        samples = values.get("temperature", params.temperature) > 0
        names = ["repetition_penalty", *(["top_k", "top_p", "min_p"] if samples else [])]
        for name in names:
            if params.leaves_open(name) and getattr(self, name) is not None:
                values[name] = getattr(self, name)
        return replace(params, **values) if values else params

    def max_tokens(
        self, prompt_len: int, params: SamplingParams, positions: int, free_prompt: int = 0
    ) -> int:
        """How many tokens may be generated: the caller's number, else the checkpoint's, but no
        fewer than the caller wants at least, else what the decoder's `positions` leave behind
        `prompt_len` tokens of prompt.

        `free_prompt`: tokens of the prompt that max_length does not count.
        """
        if params.max_tokens is not None:
            return params.max_tokens
        room = positions - prompt_len
        if self.max_new_tokens is not None:
            room = min(room, self.max_new_tokens)
        elif self.max_length is not None:
            room = min(room, self.max_length + free_prompt - prompt_len)
        return max(1, room, params.min_tokens)

    def rules(self, prompt_len: int, params: SamplingParams) -> DecodingRules:
        """The rules for a decoder prompt of `prompt_len` tokens."""
        end_ids = () if params.ignore_eos else self.end_ids
        open_minimum = params.leaves_open("min_tokens")
        open_ngrams = params.leaves_open("no_repeat_ngram_size")
        return DecodingRules(
            stop_ids=tuple(dict.fromkeys((*end_ids, *params.stop_token_ids))),
            suppress=self.suppress,
            begin_suppress=self.begin_suppress,
            # A longer prompt already holds what the first token should be (a language,
            # say).
            forced_first=self.forced_first if prompt_len == 1 else None,
            forced_last=None if params.ignore_eos else self.forced_last,
            min_tokens=self._min_tokens(prompt_len) if open_minimum else params.min_tokens,
            no_repeat_ngram=self.no_repeat_ngram if open_ngrams else params.no_repeat_ngram_size,
            bad_words=self.bad_words,
        )

    def _min_tokens(self, prompt_len: int) -> int:
        if self.min_new_tokens is not None:
            return self.min_new_tokens
        return max(0, (self.min_length or 0) - prompt_len)


def _start_id(own: SettingsReader, special: SettingsReader) -> int | None:
    """As transformers chooses it from the generation config, `own`; where that names neither
    token, from config.json as well."""
    for settings in (own, special):
        for name in ("decoder_start_token_id", "bos_token_id"):
            if (id_ := settings.single_id(name)) is not None:
                return id_
    return None
