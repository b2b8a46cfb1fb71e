"""Languages of translation models: NLLB, M2M-100, mBART and the many-to-many ones of Marian."""

import re
from collections.abc import Mapping
from typing import Any

from antiphon.config.errors import PromptError, nearest
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.languages.iso639 import two_letters

_PREFERRED = ("zho_Hans", "cmn_Hans")  # of a language in several scripts, where none is named


class TranslationFormat:
    """How the prompts of one checkpoint name languages.

    NLLB, M2M-100 and mBART: a token before or behind the source text, and one that the target begins with. Marian:
    `>>fra<<` before the source text names the target.
    """

    def __init__(self, model: ModelConfig, tokenizer: Any, codes: Mapping[str, str]) -> None:
        self.marks_text = model.family.marks_target_in_source
        self._model, self._codes = model, dict(codes)
        self.languages: dict[str, int] = {
            code: tokenizer.convert_tokens_to_ids(token) for code, token in codes.items()
        }
        # Read once: setting `src_lang` would change the tokenizer under other threads.
        self._prefix: list[int] = list(getattr(tokenizer, "prefix_tokens", None) or [])
        self._suffix: list[int] = list(getattr(tokenizer, "suffix_tokens", None) or [])
        self._exact = {_plain(code): code for code in codes}
        self._by_letters: dict[str, list[str]] = {}
        for code in codes:
            self._by_letters.setdefault(two_letters(_plain(code).partition("_")[0]), []).append(
                code
            )

    @classmethod
    def of(cls, model: ModelConfig, tokenizer: Any) -> "TranslationFormat | None":
        """None for a checkpoint that knows no languages."""
        # M2M-100's tokenizer keeps its languages apart from its vocabulary.
        tokens = {
            *tokenizer.get_vocab(),
            *tokenizer.all_special_tokens,
            *getattr(tokenizer, "lang_token_to_id", ()),
        }
        for pattern in model.family.language_tokens:
            codes = {
                match["code"]: token
                for token in sorted(tokens)
                if (match := re.fullmatch(pattern, token))
            }
            if codes:
                return cls(model, tokenizer, codes)
        return None

    def code(self, name: Any, option: str) -> str:
        """A language as the checkpoint writes it, from any spelling: fra_Latn, fra, fr, fr-FR, French.

        Raises PromptError for a language that is unknown, or that it has several kinds of.
        """
        if not isinstance(name, str) or not name.strip():
            raise PromptError(f"{option} must be the name or code of a language, not {name!r}")
        plain = _plain(name)
        if plain in self._exact:
            return self._exact[plain]
        base, _, kind = plain.partition("_")
        codes = (
            self._by_letters.get(two_letters(base))
            or self._by_letters.get(two_letters(plain))
            or []
        )
        alike = [code for code in codes if kind and _plain(code).endswith(f"_{kind}")]
        if not alike and not (
            _is_script(kind) and any(_is_script(_plain(code).partition("_")[2]) for code in codes)
        ):
            alike = (
                codes  # regions don't matter to most models; scripts do where a model names them
            )
        preferred = [code for code in alike if code in _PREFERRED] or alike
        if len(preferred) == 1:
            return preferred[0]
        if preferred:
            raise PromptError(
                f"{option} {name!r} may be {' or '.join(sorted(preferred))}: give one of them"
            )
        raise PromptError(f"unknown {option} {name!r}.{nearest(name, list(self._codes))}")

    def marked(self, text: str, target: Any) -> str:
        """Marian's source text with the target language before it."""
        return f"{self._codes[self.code(target, 'target_language')]} {text}"

    def source_ids(self, ids: list[int], source: Any) -> list[int]:
        """Token ids of a text with the tokenizer's own language, in the language `source`."""
        if self.marks_text:
            raise PromptError(
                f"{self._model.architecture} hears its source language itself: leave out source_language"
            )
        id_ = self.languages[self.code(source, "source_language")]
        start, end = len(self._prefix), len(ids) - len(self._suffix)
        known = set(self.languages.values())
        marks = [id_ if mark in known else mark for mark in (*self._prefix, *self._suffix)]
        return [*marks[:start], *ids[start:end], *marks[start:]]

    def decoder_prompt(self, start: int, target: Any) -> list[int]:
        """What the decoder begins with: its start and the language; the language alone where that is the start."""
        id_ = self.languages[self.code(target, "target_language")]
        return [id_] if start in self.languages.values() else [start, id_]


def _is_script(kind: str) -> bool:
    return len(kind) == 4


def _plain(code: str) -> str:
    return code.strip().strip("_<>|").replace("-", "_").casefold()
