"""From a prompt and its parameters to what the engine schedules, for one checkpoint."""

from collections.abc import Callable
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
from antiphon.inputs.calls.checked_calls import CheckedCalls
from antiphon.inputs.calls.options import check_token_ids
from antiphon.inputs.calls.transcription import TranscriptionOptions
from antiphon.inputs.chat import ChatFormat, load_template
from antiphon.inputs.checkpoint_warnings import warn_of
from antiphon.inputs.detokenizer import Detokenizer, TextStream
from antiphon.inputs.foreign_errors import foreign_errors_as
from antiphon.inputs.images.attended import AttendedImage
from antiphon.inputs.images.limits import DEFAULT_LIMITS, ImageLimits
from antiphon.inputs.images.prompts import ImagePrompts
from antiphon.inputs.keys import content_key
from antiphon.inputs.plain_speech import clip_tokens, speech_format
from antiphon.inputs.prepared import EncoderInput, Prepared
from antiphon.inputs.prompt_ids import attends, start_id, with_room
from antiphon.inputs.prompt_texts import PromptTexts
from antiphon.inputs.prompts import ParsedPrompt, Part, Prompt, parse, with_languages
from antiphon.inputs.taken import Taken
from antiphon.inputs.tokenizer import load_tokenizer
from antiphon.inputs.translation import TranslationFormat, check_languages
from antiphon.inputs.unread import Unread, begun
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
        self.taken = Taken.of(model, None, None)
        if model.decoder_half is not None or model.family.input == "text":
            self.tokenizer = load_tokenizer(model.path)
            self.translation = TranslationFormat.of(model, self.tokenizer)
            self.texts = PromptTexts(model, self.tokenizer, self.translation)
        if model.decoder_half is not None:
            self._read_formats()
        warn_of(model, encoder_window)

    def _read_formats(self) -> None:
        """How prompts and texts of a model that generates look."""
        model = self.model
        begin = start_id(model) if attends(model) else None
        if self.audio is not None:
            self.whisper = speech_format(model, self.audio, self.tokenizer)
            self._calls = CheckedCalls(self.whisper, self.audio)
        self.images = ImagePrompts.of(model, self.tokenizer, self.image_limits)
        self.attended_image = AttendedImage.of(model, self.tokenizer, self.image_limits)
        self.texts = PromptTexts(
            model, self.tokenizer, self.translation, self.whisper, self.images, begin
        )
        template = load_template(model.path, self.tokenizer)
        most = max(model.max_encoder_len, model.max_decoder_len)  # either half may read a chat
        self.taken = Taken.of(model, self.images, self.attended_image)
        self.chat = ChatFormat(self.tokenizer, template, most, self.taken)
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
        made = self.begin(prompt, params, source_language, target_language)
        return made.read() if isinstance(made, Unread) else made

    def begin(
        self,
        prompt: Prompt,
        params: SamplingParams,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> Prepared | Unread[Prepared]:
        """As `prepare`, but media are left unread: they may need much memory."""
        self.check(params)
        subject = f"a prompt of type {type(prompt).__name__}"
        with foreign_errors_as(PromptError, subject):
            parsed = parse(self.chat.plain(prompt), self.model.family.input)
            parsed = with_languages(parsed, source_language, target_language)
            self.taken.check(parsed.encoder)
            self._check_languages(parsed)
            make = self._of_media(parsed, params)
        fetching = self.image_limits.fetching
        return begun(parsed.encoder, make, self.expected_bytes, fetching, subject)

    def _of_media(self, parsed: ParsedPrompt, params: SamplingParams) -> Callable[[Part], Prepared]:
        """What makes a prompt, whose text is checked, of its media. Raises PromptError."""
        part, images = parsed.encoder, self.images
        if images is not None:
            images.check(part)
            text = self.texts.of_decoder_alone(parsed)
            images.check_places(text, part)

            def placed(media: Part) -> Prepared:
                ids, inputs = images.place(text, media)
                return Prepared(inputs, with_room(ids, self.model), params)

            return placed
        if self.model.encoder is None:
            ids: list[int] | None = self.texts.of_decoder_alone(parsed)
            return lambda _: Prepared((), ids, params)
        read = self.reader(parsed)
        ids = self.texts.of_decoder(parsed)
        return lambda media: Prepared((read(media),), ids, params)

    def _check_languages(self, parsed: ParsedPrompt) -> None:
        names = parsed.named_languages
        if names and self.whisper is not None:
            raise PromptError(
                f"{self.model.architecture} transcribes: give language and task to transcribe(), "
                f"not {names[0]}"
            )
        check_languages(parsed, self.translation, self.model.architecture)

    def reader(self, parsed: ParsedPrompt) -> Callable[[Part], EncoderInput]:
        """What makes of a prompt's media what the decoder attends to. Raises PromptError for a
        prompt that the encoder can't take."""
        if self.attended_image is not None:
            self.attended_image.check(parsed.encoder)
            return self.attended_image.read
        if self.audio is None:
            ids = self.texts.of_encoder(parsed)
            text = EncoderInput(self.key("text", ids), "text", len(ids), ids)
            return lambda _: text
        part = parsed.encoder
        if part.audio is None:
            raise PromptError(
                "this model listens: give 'multi_modal_data': "
                "{'audio': path, bytes or (samples, rate)}"
            )
        return self._read_clip

    def expected_bytes(self, media: Part) -> int:
        """An estimate of what reading the media of a checked prompt takes. May raise anything."""
        if self.audio is not None:
            return expected_bytes(media.audio, self.audio.sampling_rate)
        reader = self.images or self.attended_image
        assert reader is not None
        return reader.expected_bytes(media)

    def key(self, kind: str, content: np.ndarray) -> str:
        return content_key(self._salt, kind, content)

    # ------------------------------------------------------------------ audio

    def _read_clip(self, media: Part) -> EncoderInput:
        """Raises PromptError or AudioError."""
        assert self.audio is not None
        samples = self.read_sound(media.audio).samples
        if len(samples) > self.audio.window:
            raise PromptError(
                f"{len(samples) / self.audio.sampling_rate:.1f} s of audio are over the model's "
                f"window of {self.audio.window_seconds:g} s: use transcribe(), which cuts "
                "recordings at quiet places"
            )
        return self.clip(samples)

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
        return self._calls.of(options, self.has_words)

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
        rules = defaults.rules(prompt_len, params)
        rules = rules if beams is None else replace(rules, beams=beams)
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

    def token_bytes(self, id_: int, text: str) -> list[int] | None:
        """Of a token that is shown as `text`, which may be a part of a character; None where nobody
        knows them."""
        content = self._detokenizer.bytes_of(id_, text)
        return None if content is None else list(content)
