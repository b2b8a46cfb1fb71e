"""A translation checkpoint's languages: its tokens by code, and its codes by any spelling."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from antiphon.config.errors import PromptError, nearest
from antiphon.inputs.languages.iso639 import two_letters

# The code that counts where a language has several scripts and the caller names none.
_PREFERRED = ("zho_Hans", "cmn_Hans")


def language_tokens(patterns: Sequence[str], vocabulary: Iterable[str]) -> dict[str, str]:
    """The language tokens in `vocabulary` by code: those of the first of the family's `patterns`
    that matches any. Empty if none does."""
    tokens = sorted(set(vocabulary))
    for pattern in patterns:
        matches = (re.fullmatch(pattern, token) for token in tokens)
        if by_code := {match["code"]: match[0] for match in matches if match}:
            return by_code
    return {}


class LanguageCodes:
    """Finds a checkpoint's code of a language."""

    def __init__(self, codes: Iterable[str]) -> None:
        self._codes = list(codes)
        self._exact = {_plain(code): code for code in self._codes}
        self._by_letters: dict[str, list[str]] = {}
        for code in self._codes:
            letters = two_letters(_plain(code).partition("_")[0])
            self._by_letters.setdefault(letters, []).append(code)

    def find(self, name: Any, option: str) -> str:
        """The checkpoint's code of a language in any spelling: fra_Latn, fra, fr, fr-FR, French.

        Raises PromptError, which names `option`, for an unknown language and for one of which the
        checkpoint has several kinds.
        """
        if not isinstance(name, str) or not name.strip():
            raise PromptError(f"{option} must be the name or code of a language, not {name!r}")
        plain = _plain(name)
        if plain in self._exact:
            return self._exact[plain]
        codes = self._similar(plain)
        preferred = [code for code in codes if code in _PREFERRED] or codes
        if len(preferred) == 1:
            return preferred[0]
        if preferred:
            raise PromptError(
                f"{option} {name!r} may be {' or '.join(sorted(preferred))}: give one of them"
            )
        raise PromptError(f"unknown {option} {name!r}.{nearest(name, self._codes)}")

    def _similar(self, plain: str) -> list[str]:
        """Codes of the language `plain`: those with its script or region if there are any, else all
        unless it names a script that the checkpoint does not have."""
        language, _, kind = plain.partition("_")
        by_letters = self._by_letters
        codes = by_letters.get(two_letters(language)) or by_letters.get(two_letters(plain)) or []
        same_kind = [code for code in codes if kind and _plain(code).endswith(f"_{kind}")]
        if same_kind:
            return same_kind
        # Most models have one kind of a language for all regions; but a script must be theirs.
        has_scripts = any(_is_script(_plain(code).partition("_")[2]) for code in codes)
        return [] if _is_script(kind) and has_scripts else codes


def _is_script(kind: str) -> bool:
    return len(kind) == 4


def _plain(code: str) -> str:
    return code.strip().strip("_<>|").replace("-", "_").casefold()
