"""From a prompt and sampling parameters to what the engine schedules: media, decoder prompt, rules."""

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.errors import CheckpointError, PromptError
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.audio.forms import AudioInput, expected_bytes, read_sound
from antiphon.inputs.audio.sound import Sound
from antiphon.inputs.calls.options import check_token_ids
from antiphon.inputs.calls.transcription import TranscriptionOptions, check_options
from antiphon.inputs.detokenizer import Streamed, TextStream, backend_of
from antiphon.inputs.foreign_errors import foreign_errors_as
from antiphon.inputs.prompts import LANGUAGES, ParsedPrompt, Prompt, parse, sound_of, with_languages
from antiphon.inputs.translation import TranslationFormat
from antiphon.inputs.whisper.format import WhisperFormat
from antiphon.inputs.whisper.tokens import TIMESTAMP

logger = logging.getLogger(__name__)

WINDOW_KEY = (
    "antiphon_encoder_window"  # of config.json: short windows were measured with this model
)
SHORT_WINDOWS = (
    "encoder_window='auto': nothing says that %s hears right in short windows. Published Whisper "
    "does not: in 207 words of tiny.en, 688 differed from the full window's text (loops). "
    "Measure it, then set '%s': 'auto' in config.json; or leave the option at 'full'"
)


@dataclass(frozen=True)
class EncoderInput:
    """`payload`: int32 token ids or float32 samples, or what stands for them. `num_tokens`: of the encoder's output. `key`: of the
    content."""

    key: str
    kind: str
    num_tokens: int
    payload: Any


@dataclass(frozen=True)
class Prepared:
    """A request's parts, checked. `prompt_token_ids` is None while the language of the audio is still to be found."""

    media: EncoderInput
    prompt_token_ids: list[int] | None
    params: SamplingParams


class InputProcessor:
    """Tokenizer, prompt format and audio settings of one checkpoint."""

    def __init__(
        self, model: ModelConfig, encoder_window: Literal["full", "auto"] = "full"
    ) -> None:
        """Raises CheckpointError for a checkpoint without a tokenizer, or without the token that
        decoder prompts begin with."""
        self.model, self.encoder_window = model, encoder_window
        self._start_id = _start_id(model)
        self.tokenizer = _load_tokenizer(model)
        self.audio = model.audio
        self.whisper: WhisperFormat | None = None
        if self.audio is not None:
            self.whisper = WhisperFormat(model, self.tokenizer)
            if encoder_window == "auto" and model.raw.get(WINDOW_KEY) != "auto":
                logger.warning(SHORT_WINDOWS, model.path.name, WINDOW_KEY)
        self._backend = backend_of(self.tokenizer)
        self.translation = TranslationFormat.of(model, self.tokenizer)
        if model.defaults.ignored:
            ignored = ", ".join(model.defaults.ignored)
            logger.warning(
                "the generation config of %s is obeyed but for %s: text may differ from transformers'",
                model.path,
                ignored,
            )
        self._token_texts: dict[tuple[int, bool], str] = {}  # no more than the vocabulary
        self._salt = f"{model.path}|{self.audio}|{encoder_window}".encode()

    # ------------------------------------------------------------------ prompts

    def prepare(
        self,
        prompt: Prompt,
        params: SamplingParams,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> Prepared:
        """Checks and normalises. Raises InputError (PromptError, AudioError, SamplingError), whatever the
        prompt is made of.

        Languages are for translation models, in any spelling; those that the prompt itself names go first.
        """
        with foreign_errors_as(PromptError, f"a prompt of type {type(prompt).__name__}"):
            parsed = with_languages(
                parse(prompt, self.model.family.input), source_language, target_language
            )
            self._check_languages(parsed)
            self.check(params)
            media = (
                self._audio_media(parsed) if self.audio is not None else self._text_media(parsed)
            )
            return Prepared(media, self._decoder_prompt(parsed), params)

    def _audio_media(self, parsed: ParsedPrompt) -> EncoderInput:
        if parsed.encoder.audio is None:
            raise PromptError(
                "this model listens: give 'multi_modal_data': {'audio': path, bytes or (samples, rate)}"
            )
        assert self.audio is not None
        samples = self.read_sound(parsed.encoder.audio).samples
        if len(samples) > self.audio.window:
            raise PromptError(
                f"{len(samples) / self.audio.sampling_rate:.1f} s of audio are over the model's window of "
                f"{self.audio.window_seconds:g} s: use transcribe(), which cuts recordings at quiet places"
            )
        return self.clip(samples)

    def expected_bytes(self, prompt: Prompt) -> int:
        """How much memory the sound of `prompt` may take: a guess, before anything is read. Text counts for nothing."""
        if self.audio is None:
            return 0
        try:
            return expected_bytes(sound_of(prompt), self.audio.sampling_rate)
        except Exception:  # a mapping of a caller's own: `prepare` says what is wrong with it
            return 0

    def read_sound(self, source: AudioInput) -> Sound:
        """Sound in any form, whole, at the model's rate. Raises AudioError."""
        assert self.audio is not None
        return read_sound(source, self.audio.sampling_rate)

    def check_transcription(self, **options: Any) -> TranscriptionOptions:
        """The keywords of transcribe(), checked for this checkpoint; needs no engine.

        Raises PromptError for a checkpoint that doesn't listen, an unknown language or a wrong value,
        SamplingError for parameters, ConfigurationError for an unknown keyword.
        """
        if self.whisper is None or self.audio is None:
            raise PromptError(
                f"{self.model.architecture} does not transcribe audio: use generate()"
            )
        checked = check_options(self.whisper, self.audio, **options)
        self.check(checked.params)
        return checked

    def clip(self, samples: np.ndarray) -> EncoderInput:
        """One window of samples at the model's rate."""
        assert self.audio is not None
        key = self._key("audio", samples)
        tokens = (
            self.audio.tokens_of(len(samples))
            if self.encoder_window == "auto"
            else self.model.max_encoder_len
        )
        return EncoderInput(key, "audio", tokens, samples)

    def _check_languages(self, parsed: ParsedPrompt) -> None:
        named = [name for name in LANGUAGES if getattr(parsed, name) is not None]
        if not named:
            return
        if self.whisper is not None:
            raise PromptError(
                f"{self.model.architecture} transcribes: give language and task to transcribe(), not {named[0]}"
            )
        if self.translation is None:
            raise PromptError(
                f"this {self.model.architecture} knows no languages: leave out {' and '.join(named)}"
            )
        if parsed.target_language is not None and parsed.decoder.has_tokens:
            raise PromptError(
                "give 'target_language' or a decoder prompt, not both: it begins the decoder's prompt"
            )
        needs_text = LANGUAGES if self.translation.marks_text else ["source_language"]
        if parsed.encoder.token_ids is not None and any(name in needs_text for name in named):
            raise PromptError(
                f"{named[0]} needs a prompt of text: token ids hold the language already"
            )

    def _encoder_ids(self, parsed: ParsedPrompt) -> list[int]:
        text, source, target = parsed.encoder.text, parsed.source_language, parsed.target_language
        if self.translation is not None and self.translation.marks_text and target is not None:
            text = self.translation.marked(text or "", target)
        ids: list[int] = self.tokenizer(text).input_ids
        return (
            ids
            if source is None or self.translation is None
            else self.translation.source_ids(ids, source)
        )

    def _text_media(self, parsed: ParsedPrompt) -> EncoderInput:
        part = parsed.encoder
        if part.audio is not None:
            raise PromptError(f"{self.model.architecture} reads text: it takes no audio")
        if not part.has_tokens:
            raise PromptError("the prompt is empty: give 'prompt' or 'prompt_token_ids'")
        ids = list(part.token_ids) if part.token_ids is not None else self._encoder_ids(parsed)
        self._check_ids(ids, "the encoder prompt", self.model.encoder)
        if len(ids) > self.model.max_encoder_len:
            raise PromptError(
                f"{len(ids)} tokens of text are over the encoder's {self.model.max_encoder_len}: shorten or split it"
            )
        array = np.array(ids, np.int32)
        return EncoderInput(self._key("text", array), "text", len(ids), array)

    def _key(self, kind: str, content: np.ndarray) -> str:
        digest = hashlib.sha256(
            self._salt
        )  # processors have instructions for it: half the time of others
        digest.update(kind.encode())
        digest.update(np.ascontiguousarray(content).data)
        return digest.hexdigest()[:32]

    def _decoder_prompt(self, parsed: ParsedPrompt) -> list[int] | None:
        part = parsed.decoder
        start = self._start_id
        if (
            self.translation is not None
            and parsed.target_language is not None
            and not self.translation.marks_text
        ):
            return self.translation.decoder_prompt(start, parsed.target_language)
        if not part.has_tokens:
            return None if self.whisper is not None else [start]
        ids = (
            list(part.token_ids)
            if part.token_ids is not None
            else self.tokenizer(part.text, add_special_tokens=False).input_ids
        )
        previous = self.whisper.previous_id if self.whisper is not None else None
        if not ids or ids[0] not in (start, previous):
            ids = [start, *ids]
        self._check_ids(ids, "the decoder prompt", self.model.decoder)
        if len(ids) >= self.model.max_decoder_len:
            raise PromptError(
                f"a decoder prompt of {len(ids)} tokens leaves no room within {self.model.max_decoder_len} positions"
            )
        return ids

    def _check_ids(self, ids: list[int], what: str, half: Any) -> None:
        if not ids:
            raise PromptError(f"{what} is empty")
        outside = [id_ for id_ in ids if not 0 <= id_ < half.vocab_size]
        if outside:
            raise PromptError(
                f"{what} has token id {outside[0]}; the vocabulary has 0 to {half.vocab_size - 1}"
            )

    # ------------------------------------------------------------------ rules

    def check(self, params: SamplingParams) -> None:
        """Raises SamplingError for token ids outside the vocabulary."""
        check_token_ids(params, self.model.decoder.vocab_size)

    def complete(self, params: SamplingParams) -> SamplingParams:
        """With the checkpoint's settings where the caller left them open."""
        return self.model.defaults.complete(params)

    def rules(self, prompt_len: int, params: SamplingParams, timestamps: bool) -> DecodingRules:
        """The checkpoint's generation config for a prompt of `prompt_len` tokens."""
        rules = self.model.defaults.rules(prompt_len, params)
        if timestamps:
            assert self.whisper is not None
            return replace(rules, timestamps=self.whisper.rules())
        return rules

    def max_tokens(self, prompt_len: int, params: SamplingParams) -> int:
        """As asked; else as the checkpoint says, else up to the decoder's positions."""
        positions = self.model.max_decoder_len
        # transformers counts a Whisper's max_length without its prompt, or half of it where that is long.
        free = min(positions // 2 - 1, prompt_len) if self.whisper is not None else 0
        return self.model.defaults.max_tokens(prompt_len, params, positions, free)

    def wants_timestamps(self, prompt_token_ids: list[int]) -> bool:
        """Whisper writes timestamps unless its prompt says <|notimestamps|>; a bare start of a multilingual one asks for a language."""
        if (
            self.whisper is None
            or not self.whisper.times
            or (self.whisper.multilingual and len(prompt_token_ids) == 1)
        ):
            return False
        return self.whisper.no_timestamps_id not in prompt_token_ids

    def text_stream(self, params: SamplingParams) -> TextStream:
        """For the text of one request, as its tokens come."""

        def decode(ids: list[int]) -> str:
            return self.decode(ids, params.skip_special_tokens)

        pieces = None
        if self._backend is not None:
            hidden = None if self.whisper is None else TIMESTAMP
            pieces = Streamed(self._backend, decode, params.skip_special_tokens, hidden)
        return TextStream(
            decode, tuple(params.stop), params.min_tokens, params.include_stop_str_in_output, pieces
        )

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        if len(token_ids) != 1:
            text: str = self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)
            return text
        # Log-probabilities name the same single tokens again and again: those of 99 languages, say.
        key = int(token_ids[0]), skip_special_tokens
        if key not in self._token_texts:
            self._token_texts[key] = self.tokenizer.decode(
                token_ids, skip_special_tokens=skip_special_tokens
            )
        return self._token_texts[key]


def _start_id(model: ModelConfig) -> int:
    start = model.defaults.start_id
    if start is None:
        raise CheckpointError(
            f"{model.path}: neither decoder_start_token_id nor bos_token_id is set, in "
            "generation_config.json or config.json: set the first one to the id of the token that "
            "decoder prompts begin with"
        )
    return start


def _load_tokenizer(model: ModelConfig) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.path)
    except (
        Exception
    ) as error:  # tokenizer libraries raise many unrelated types for broken or missing files
        raise CheckpointError(
            f"cannot load the tokenizer of {model.path}: {type(error).__name__}: {error}"
        ) from error
    _check_vocabulary(tokenizer, model.path)
    return tokenizer


def _check_vocabulary(tokenizer: Any, folder: Path) -> None:
    """Raises CheckpointError where no file of its vocabulary is there: transformers makes a tokenizer
    all the same, of special tokens alone, which turns every text into unknown tokens."""
    kinds = ("vocab", "tokenizer_file", "spm", "source", "target", "merges")
    files = [name for kind, name in tokenizer.vocab_files_names.items() if kind.startswith(kinds)]
    if files and not any((folder / name).exists() for name in files):
        raise CheckpointError(
            f"{folder} has no tokenizer: none of {', '.join(files)} is there. Fetch it from where the "
            "weights come from, or save it beside them with the tokenizer's save_pretrained()"
        )
