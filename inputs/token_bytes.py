"""The bytes of tokens, also of those that are a part of a character, which no text shows."""

import re
from typing import Any

UNFINISHED = "\ufffd"  # what tokenizers write for a character some of whose bytes are missing
FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # SentencePiece's name of a single byte


def bytes_of(tokenizer: Any, id_: int, text: str) -> bytes | None:
    """Of a token that is shown as `text`; None where its name does not tell them. Of a part of a
    character ByT5 shows nothing."""
    if text and UNFINISHED not in text:
        return text.encode()
    name = tokenizer.convert_ids_to_tokens(id_)
    if not text and (not isinstance(name, str) or len(name) != 1 or ord(name) > 255):
        return b""
    if not isinstance(name, str):
        return None
    if match := FALLBACK.fullmatch(name):
        return bytes.fromhex(match[1])
    values = [LETTERS.get(letter, ord(letter)) for letter in name]
    return bytes(values) if max(values, default=0) < 256 else None


def _letters() -> dict[str, int]:
    """The bytes for which letters stand in the vocabularies of GPT-2 and all that came after it:
    what can be printed stands for itself. So do all others in ByT5's."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [value for value in range(256) if value not in printed]
    return {chr(256 + number): value for number, value in enumerate(others)}


LETTERS = _letters()
