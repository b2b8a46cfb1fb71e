"""The texts of prompts as token ids, for both halves of one checkpoint."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from antiphon.config.errors import PromptError
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.bounded_text import bounded_ids
from antiphon.inputs.images.prompts import ImagePrompts
from antiphon.inputs.prompt_ids import check_ids, with_room
from antiphon.inputs.prompts import ParsedPrompt
from antiphon.inputs.translation import TranslationFormat
from antiphon.inputs.whisper.format import WhisperFormat


@dataclass(frozen=True)
class PromptTexts:
    """`start_id`: of decoder prompts, where the decoder attends to an input."""

    model: ModelConfig
    tokenizer: Any
    translation: TranslationFormat | None
    whisper: WhisperFormat | None = None
    images: ImagePrompts | None = None
    start_id: int | None = None

    def of_encoder(self, parsed: ParsedPrompt) -> np.ndarray:
        """int32 [n], for a text encoder. Raises PromptError."""
        part, limit = parsed.encoder, self.model.max_encoder_len
        if not part.has_tokens:
            raise PromptError("the prompt is empty: give 'prompt' or 'prompt_token_ids'")
        ids = self._encoder_ids(parsed) if part.token_ids is None else list(part.token_ids)
        assert self.model.encoder is not None
        check_ids(ids, "the encoder prompt", self.model.encoder.vocab_size)
        if len(ids) > limit:
            raise PromptError(
                f"{len(ids)} tokens of text are over the encoder's {limit}: shorten or split it"
            )
        return np.array(ids, np.int32)

    def _encoder_ids(self, parsed: ParsedPrompt) -> list[int]:
        """In the languages that the prompt names."""
        translation, text = self.translation, parsed.encoder.text or ""
        source, target = parsed.source_language, parsed.target_language
        if translation is not None and translation.marks_text and target is not None:
            text = translation.marked(text, target)
        ids = bounded_ids(self.tokenizer, text, self.model.max_encoder_len)
        if translation is None or source is None:
            return ids
        return translation.source_ids(ids, source)

    def of_decoder(self, parsed: ParsedPrompt) -> list[int] | None:
        """For a decoder behind an encoder. None while the language of audio is to be detected.
        Raises PromptError."""
        part, translation, target = parsed.decoder, self.translation, parsed.target_language
        start, most = self.start_id, self.model.max_decoder_len
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

    def of_decoder_alone(self, parsed: ParsedPrompt) -> list[int]:
        """For a decoder that reads the prompt itself, with the tokenizer's special tokens; ids as
        they are given. Raises PromptError."""
        part = parsed.decoder
        if not part.has_tokens:
            raise PromptError("the prompt is empty: give 'prompt' or 'prompt_token_ids'")
        if part.token_ids is not None:
            return with_room(list(part.token_ids), self.model)
        text = (part.text or "") if self.images is None else self.images.begun(part.text or "")
        return with_room(bounded_ids(self.tokenizer, text, self.model.max_decoder_len), self.model)
