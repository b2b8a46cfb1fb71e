"""Language codes from what people write: names, codes, BCP-47 tags, Whisper's tokens."""

from collections.abc import Collection
from difflib import get_close_matches

from antiphon.config.errors import PromptError
from antiphon.inputs.languages.iso639 import OWN_NAMES, two_letters
from antiphon.inputs.languages.names import CODES_BY_NAME, NAMES

# Codes of BCP-47 where Whisper's differ, and codes that BCP-47 has replaced.
OTHER_CODES = {
    "cmn": "zh", "fil": "tl", "in": "id", "iw": "he", "ji": "yi", "jv": "jw", "mo": "ro",
    "nb": "no",
}  # fmt: skip
# Suggestions for codes of countries, and for other tools' words for automatic detection.
MEANT = {
    "cn": "zh", "cz": "cs", "dk": "da", "gr": "el", "il": "he", "ir": "fa", "jp": "ja", "kr": "ko",
    "se": "sv", "ua": "uk", "vn": "vi", "detect": "auto", "multi": "auto", "multilingual": "auto",
    "none": "auto", "null": "auto", "unknown": "auto", "mul": "auto", "und": "auto",
}  # fmt: skip
NEAR = 0.75  # the least similarity of a suggestion


def language_code(language: object, known: Collection[str]) -> str | None:
    """One of the codes `known` for a language in any spelling: 'German', 'EN', 'de-DE', 'zh_Hans',
    '<|de|>'. None for None and 'auto', which leave it to the model.

    Raises PromptError, which suggests a similar language, or lists all.
    """
    if language is None:
        return None
    if not isinstance(language, str):
        raise PromptError(
            "language must be a code or a name such as 'de' or 'German', "
            f"not a {type(language).__name__}"
        )
    text = language.strip().removeprefix("<|").removesuffix("|>").strip().lower()
    text = text.partition("(")[0].strip() or text  # 'english (US)'
    if text == "auto":
        return None
    candidates = _candidates(text)
    for code in candidates:
        if code in known:
            return code
    raise PromptError(_unknown(language, text, candidates, known))


def _candidates(text: str) -> list[str]:
    """Codes that `text`, in small letters, may stand for; the likeliest first."""
    prefix = text.replace("_", "-").split("-")[0]
    shorter = two_letters(prefix)  # for ISO 639's three letters: deu, ger
    whole = two_letters(text.replace("_", " ").replace("-", " "))  # norwegian_nynorsk
    names = (CODES_BY_NAME.get(text), OWN_NAMES.get(text), OTHER_CODES.get(text), whole)
    parts = (prefix, OTHER_CODES.get(prefix), shorter, OTHER_CODES.get(shorter))
    return [code for code in (text, *names, *parts) if code is not None]


def _unknown(language: str, text: str, candidates: list[str], known: Collection[str]) -> str:
    if not text:
        return "the language is empty: leave it out, and the model finds it"
    code = next((code for code in candidates if code in NAMES), None)
    codes = ", ".join(sorted(known))
    if code is not None:
        return (
            f"this checkpoint does not know the language '{language[:40]}' ({code}). "
            f"It knows: {codes}"
        )
    names_of_known = [name for name, its_code in CODES_BY_NAME.items() if its_code in known]
    meant = MEANT.get(text)
    near = get_close_matches(text, [*names_of_known, *known], n=1, cutoff=NEAR)
    if meant in ("auto", *known):
        near = [str(meant)]
    hint = f"Did you mean '{near[0]}'?" if near else f"Known ones: {codes}, or their English names"
    return f"unknown language '{language[:40]}'. {hint}"
