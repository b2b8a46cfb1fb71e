"""How translation models name languages: NLLB, M2M-100, mBART, and Marian's many-to-many models."""

from collections.abc import Mapping
from typing import Any

from antiphon.config.errors import PromptError
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.languages.codes import LanguageCodes, language_tokens
from antiphon.inputs.prompts import LANGUAGES, ParsedPrompt


class TranslationFormat:
    """How the prompts of one checkpoint name languages.

    NLLB, M2M-100 and mBART put a token before or behind the source text, and begin the target text
    with one. Marian names the target before the source text: `>>fra<<`.
    """

    def __init__(self, model: ModelConfig, tokenizer: Any, tokens: Mapping[str, str]) -> None:
        """`tokens`: the checkpoint's language tokens by code."""
        self.marks_text = model.family.marks_target_in_source
        self._architecture, self._tokens = model.architecture, dict(tokens)
        self.languages: dict[str, int] = {
            code: tokenizer.convert_tokens_to_ids(token) for code, token in tokens.items()
        }
        # Read once: setting `src_lang` would change the tokenizer under other threads.
        self._prefix: list[int] = list(getattr(tokenizer, "prefix_tokens", None) or [])
        self._suffix: list[int] = list(getattr(tokenizer, "suffix_tokens", None) or [])
        self._codes = LanguageCodes(tokens)

    @classmethod
    def of(cls, model: ModelConfig, tokenizer: Any) -> "TranslationFormat | None":
        """None for a checkpoint that knows no languages."""
        # M2M-100's tokenizer keeps its languages apart from its vocabulary.
        vocabulary = {
            *tokenizer.get_vocab(),
            *tokenizer.all_special_tokens,
            *getattr(tokenizer, "lang_token_to_id", ()),
        }
        tokens = language_tokens(model.family.language_tokens, vocabulary)
        return cls(model, tokenizer, tokens) if tokens else None

    def code(self, name: Any, option: str) -> str:
        """As `LanguageCodes.find`."""
        return self._codes.find(name, option)

    def marked(self, text: str, target: Any) -> str:
        """Marian's source text with the target language before it."""
        return f"{self._tokens[self.code(target, 'target_language')]} {text}"

    def source_ids(self, ids: list[int], source: Any) -> list[int]:
        """`ids`, tokenized with the tokenizer's own source language, in the language `source`."""
        if self.marks_text:
            raise PromptError(
                f"{self._architecture} hears its source language itself: leave out source_language"
            )
        source_id = self.languages[self.code(source, "source_language")]
        start, end = len(self._prefix), len(ids) - len(self._suffix)
        known = set(self.languages.values())
        marks = [source_id if mark in known else mark for mark in (*self._prefix, *self._suffix)]
        return [*marks[:start], *ids[start:end], *marks[start:]]

    def decoder_prompt(self, start: int, target: Any) -> list[int]:
        """The start token and the target language; the language alone where the start token is
        itself a language."""
        target_id = self.languages[self.code(target, "target_language")]
        return [target_id] if start in self.languages.values() else [start, target_id]


def check_languages(
    parsed: ParsedPrompt, translation: TranslationFormat | None, architecture: str
) -> None:
    """Raises PromptError for languages that the checkpoint or the form of the prompt can't take."""
    names = parsed.named_languages
    if not names:
        return
    if translation is None:
        raise PromptError(
            f"this {architecture} knows no languages: leave out {' and '.join(names)}",
            parameter=names[0],
        )
    if parsed.target_language is not None and parsed.decoder.has_tokens:
        raise PromptError(
            "give 'target_language' or a decoder prompt, not both: it begins the decoder's prompt"
        )
    need_text = LANGUAGES if translation.marks_text else ["source_language"]
    if parsed.encoder.token_ids is not None and any(name in need_text for name in names):
        raise PromptError(f"{names[0]} needs a prompt of text: token ids hold the language already")
