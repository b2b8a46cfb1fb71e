"""From a prompt and its parameters to what the engine schedules, for one checkpoint."""

import hashlib
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from antiphon.config.decoding_rules import DecodingRules, RuleChanges
from antiphon.config.errors import PromptError
from antiphon.config.sampling import SamplingParams
from antiphon.families.alignment_heads import alignment_heads
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.audio.forms import AudioInput, expected_bytes, read_sound
from antiphon.inputs.audio.sound import Sound
from antiphon.inputs.bounded_text import bounded_ids
from antiphon.inputs.calls.options import check_token_ids
from antiphon.inputs.calls.transcription import TranscriptionOptions, check_options
from antiphon.inputs.chat import ChatFormat, load_template
from antiphon.inputs.checkpoint_warnings import warn_of
from antiphon.inputs.detokenizer import Detokenizer, TextStream
from antiphon.inputs.foreign_errors import foreign_errors_as
from antiphon.inputs.images.attended import AttendedImage
from antiphon.inputs.images.limits import DEFAULT_LIMITS, ImageLimits
from antiphon.inputs.images.prompts import ImagePrompts, taken_in_chats
from antiphon.inputs.plain_speech import clip_tokens, speech_format
from antiphon.inputs.prepared import EncoderInput, Prepared
from antiphon.inputs.prompt_ids import attends, check_ids, start_id, with_room
from antiphon.inputs.prompts import ParsedPrompt, Prompt, parse, sound_of, with_languages
from antiphon.inputs.tokenizer import load_tokenizer
from antiphon.inputs.translation import TranslationFormat, check_languages
from antiphon.inputs.whisper.format import WhisperFormat


class InputProcessor:
    """Tokenizer, prompt format, audio settings and generation settings of one checkpoint.

    On the way in, `prepare` turns a prompt into an encoder input and a decoder prompt; `complete`,
    `rules` and `max_tokens` combine a request's parameters with the checkpoint's settings. On the
    way out, `text_stream` and `decode` turn tokens into text. Methods may run in several threads.
    """

    def __init__(
        self,
        model: ModelConfig,
        encoder_window: Literal["full", "zeros", "auto"] = "full",
        image_limits: ImageLimits = DEFAULT_LIMITS,
        has_words: bool = True,
    ) -> None:
        """`has_words`: the engine keeps what word times are made of, if the model has it. Raises
        CheckpointError for a checkpoint without a tokenizer, or without a token to begin decoder
        prompts with."""
        self.model, self.encoder_window = model, encoder_window
        self.has_words = has_words and bool(alignment_heads(model))
        self.image_limits = image_limits
        self.audio = model.audio
        self._salt = f"{model.path}|{self.audio}|{encoder_window}".encode()
        self.whisper: WhisperFormat | None = None
        self.images: ImagePrompts | None = None
        self.attended_image: AttendedImage | None = None
        if model.decoder_half is not None or model.family.input == "text":
            self.tokenizer = load_tokenizer(model.path)
            self.translation = TranslationFormat.of(model, self.tokenizer)
        if model.decoder_half is not None:
            self._read_formats()
        warn_of(model, encoder_window)

    def _read_formats(self) -> None:
        """How prompts and texts of a model that generates look."""
        model = self.model
        self._start_id = start_id(model) if attends(model) else None
        if self.audio is not None:
            self.whisper = speech_format(model, self.audio, self.tokenizer)
        self.images = ImagePrompts.of(model, self.tokenizer, self.image_limits)
        self.attended_image = AttendedImage.of(model, self.tokenizer, self.image_limits)
        template = load_template(model.path, self.tokenizer)
        most = max(model.max_encoder_len, model.max_decoder_len)  # either half may read a chat
        self.chat = ChatFormat(self.tokenizer, template, most, *taken_in_chats(self.images))
        self._detokenizer = Detokenizer(model, self.tokenizer)

    # ------------------------------------------------------------------ prompts

    def prepare(
        self,
        prompt: Prompt,
        params: SamplingParams,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> Prepared:
        """Checks a prompt of any form and brings it into the engine's.

        The languages are for translation models, in any spelling; those that the prompt itself
        names take precedence. Raises InputError (PromptError, AudioError, SamplingError), whatever
        the prompt is made of.
        """
        self.check(params)
        with foreign_errors_as(PromptError, f"a prompt of type {type(prompt).__name__}"):
            parsed = parse(self.chat.plain(prompt), self.model.family.input)
            parsed = with_languages(parsed, source_language, target_language)
            self._check_languages(parsed)
            if self.images is not None:
                self.images.check(parsed.encoder)
                ids, inputs = self.images.place(self._text_prompt(parsed), parsed.encoder)
                return Prepared(inputs, with_room(ids, self.model), params)
            if self.model.encoder is None:
                return Prepared((), self._text_prompt(parsed), params)
            return Prepared((self._media(parsed),), self._decoder_prompt(parsed), params)

    def _check_languages(self, parsed: ParsedPrompt) -> None:
        names = parsed.named_languages
        if names and self.whisper is not None:
            raise PromptError(
                f"{self.model.architecture} transcribes: give language and task to transcribe(), "
                f"not {names[0]}"
            )
        check_languages(parsed, self.translation, self.model.architecture)

    def _media(self, parsed: ParsedPrompt) -> EncoderInput:
        """What the decoder attends to."""
        if self.attended_image is not None:
            return self.attended_image.read(parsed)
        return self.text_media(parsed) if self.audio is None else self.audio_media(parsed)

    def audio_media(self, parsed: ParsedPrompt) -> EncoderInput:
        """The clip of a prompt for an audio encoder. Raises PromptError or AudioError."""
        assert self.audio is not None
        part = parsed.encoder
        if part.audio is None or part.images or part.videos:
            raise PromptError(
                "this model listens: give 'multi_modal_data': "
                "{'audio': path, bytes or (samples, rate)}"
            )
        samples = self.read_sound(parsed.encoder.audio).samples
        if len(samples) > self.audio.window:
            raise PromptError(
                f"{len(samples) / self.audio.sampling_rate:.1f} s of audio are over the model's "
                f"window of {self.audio.window_seconds:g} s: use transcribe(), which cuts "
                "recordings at quiet places"
            )
        return self.clip(samples)

    def text_media(self, parsed: ParsedPrompt) -> EncoderInput:
        """The text of a prompt for a text encoder. Raises PromptError."""
        part, limit = parsed.encoder, self.model.max_encoder_len
        if part.media:
            raise PromptError(f"{self.model.architecture} reads text: it takes no {part.media}")
        if not part.has_tokens:
            raise PromptError("the prompt is empty: give 'prompt' or 'prompt_token_ids'")
        ids = self._encoder_ids(parsed) if part.token_ids is None else list(part.token_ids)
        assert self.model.encoder is not None
        check_ids(ids, "the encoder prompt", self.model.encoder.vocab_size)
        if len(ids) > limit:
            raise PromptError(
                f"{len(ids)} tokens of text are over the encoder's {limit}: shorten or split it"
            )
        array = np.array(ids, np.int32)
        return EncoderInput(self.key("text", array), "text", len(ids), array)

    def _encoder_ids(self, parsed: ParsedPrompt) -> list[int]:
        """Token ids of the encoder's text, in the languages that the prompt names."""
        translation, text = self.translation, parsed.encoder.text or ""
        source, target = parsed.source_language, parsed.target_language
        if translation is not None and translation.marks_text and target is not None:
            text = translation.marked(text, target)
        ids = bounded_ids(self.tokenizer, text, self.model.max_encoder_len)
        if translation is None or source is None:
            return ids
        return translation.source_ids(ids, source)

    def _decoder_prompt(self, parsed: ParsedPrompt) -> list[int] | None:
        part, translation, target = parsed.decoder, self.translation, parsed.target_language
        start, most = self._start_id, self.model.max_decoder_len
        assert start is not None
        if translation is not None and target is not None and not translation.marks_text:
            return translation.decoder_prompt(start, target)
        if not part.has_tokens:
            return None if self.whisper is not None else [start]
        ids = (
            bounded_ids(self.tokenizer, part.text or "", most, add_special_tokens=False)
            if part.token_ids is None
            else list(part.token_ids)
        )
        earlier_text = None if self.whisper is None else self.whisper.previous_id
        if not ids or not (self.model.decoder.any_start or ids[0] in (start, earlier_text)):
            ids = [start, *ids]
        return with_room(ids, self.model)

    def _text_prompt(self, parsed: ParsedPrompt) -> list[int]:
        """The prompt of a decoder without an encoder, with the tokenizer's special tokens; ids as
        they are given."""
        part = parsed.decoder
        if not part.has_tokens:
            raise PromptError("the prompt is empty: give 'prompt' or 'prompt_token_ids'")
        if part.token_ids is not None:
            return with_room(list(part.token_ids), self.model)
        text = (part.text or "") if self.images is None else self.images.begun(part.text or "")
        return with_room(bounded_ids(self.tokenizer, text, self.model.max_decoder_len), self.model)

    def key(self, kind: str, content: np.ndarray) -> str:
        # Processors have instructions for SHA-256: it takes half the time of other digests.
        digest = hashlib.sha256(self._salt)
        digest.update(kind.encode())
        digest.update(np.ascontiguousarray(content).data)
        return digest.hexdigest()[:32]

    # ------------------------------------------------------------------ audio

    def expected_bytes(self, prompt: Prompt) -> int:
        """An estimate of the memory that the samples of `prompt` will take, before it is read. 0
        for a prompt without audio."""
        if self.audio is None:
            return 0
        try:
            return expected_bytes(sound_of(prompt), self.audio.sampling_rate)
        except Exception:  # a caller's own mapping may raise anything; `prepare` reports it
            return 0

    def read_sound(self, source: AudioInput) -> Sound:
        """A whole recording in any form, at the model's rate. Raises AudioError."""
        assert self.audio is not None
        return read_sound(source, self.audio.sampling_rate)

    def clip(self, samples: np.ndarray) -> EncoderInput:
        """Samples [n] at the model's rate, at most a window, as an input. Raises PromptError."""
        assert self.audio is not None
        limit, is_short = self.model.max_encoder_len, self.encoder_window == "auto"
        num_tokens = clip_tokens(len(samples), self.audio, limit, is_short)
        return EncoderInput(self.key("audio", samples), "audio", num_tokens, samples)

    def in_full_window(self, media: EncoderInput) -> EncoderInput | None:
        """A clip that was to be encoded in a short window, for a full one: with silence behind it.
        None if its window is full."""
        assert self.audio is not None
        if self.audio.any_length or media.num_tokens >= self.model.max_encoder_len:
            return None
        samples: np.ndarray = media.payload
        return self.clip(np.pad(samples, (0, self.audio.window - len(samples))))

    def check_transcription(self, **options: Any) -> TranscriptionOptions:
        """The keywords of transcribe(), checked for this checkpoint before any engine runs.

        Raises PromptError for a checkpoint that doesn't listen, an unknown language or a wrong
        value, SamplingError for parameters, ConfigurationError for an unknown keyword.
        """
        if self.whisper is None or self.audio is None:
            raise PromptError(
                f"{self.model.architecture} does not transcribe audio: use generate()"
            )
        checked = check_options(self.whisper, self.audio, options, self.has_words)
        self.check(checked.params)
        return checked

    # ------------------------------------------------------------------ rules

    def check(self, params: SamplingParams) -> None:
        """Raises SamplingError for token ids outside the vocabulary."""
        check_token_ids(params, self.model.decoder.vocab_size)

    def complete(self, params: SamplingParams) -> SamplingParams:
        """`params` with the checkpoint's settings where the caller left them open."""
        return self.model.defaults.complete(params)

    def rules(
        self,
        prompt_len: int,
        params: SamplingParams,
        timestamps: bool,
        changes: RuleChanges | None = None,
    ) -> DecodingRules:
        """The rules for a decoder prompt of `prompt_len` tokens. `timestamps`: with Whisper's."""
        defaults = self.model.defaults
        beams = defaults.beams.rules(params, self.whisper is not None)
        rules = replace(defaults.rules(prompt_len, params), beams=beams)
        if timestamps:
            assert self.whisper is not None
            rules = replace(rules, timestamps=self.whisper.rules())
        return rules if changes is None else changes.applied(rules)

    def max_tokens(self, prompt_len: int, params: SamplingParams) -> int:
        """How many tokens may be generated: as the caller says, else as the checkpoint does, else
        up to the decoder's positions."""
        positions = self.model.max_decoder_len
        # transformers leaves a Whisper prompt out of max_length, up to half the positions of it.
        is_free = self.whisper is not None and self.whisper.prompt_is_free
        free = min(positions // 2 - 1, prompt_len) if is_free else 0
        return self.model.defaults.max_tokens(prompt_len, params, positions, free)

    def wants_timestamps(self, prompt_token_ids: list[int]) -> bool:
        """Whether text behind this decoder prompt has timestamps."""
        return self.whisper is not None and self.whisper.wants_timestamps(prompt_token_ids)

    # ------------------------------------------------------------------ text

    def text_stream(self, params: SamplingParams) -> TextStream:
        """For the text of one request, as its tokens come."""
        return self._detokenizer.stream(params)

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        """The text of a whole token sequence."""
        return self._detokenizer.decode(token_ids, skip_special_tokens)
