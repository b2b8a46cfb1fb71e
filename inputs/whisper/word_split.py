"""Which tokens make a word: as openai/whisper's tokenizer splits them."""

import string
from collections.abc import Callable

Decode = Callable[[list[int]], str]

WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # languages written so
_UNFINISHED = "\ufffd"  # what tokenizers write for a character some of whose bytes are missing


def split_into_words(
    token_ids: list[int], decode: Decode, language: str | None
) -> list[tuple[str, int]]:
    """The words of text tokens, with the blanks before them, and the number of tokens of each.

    Where words have blanks between them, a word begins at each blank and a punctuation mark is a
    word of its own; in other languages a word is as few tokens as end with a character.
    """
    pieces = _whole_characters(token_ids, decode)
    if language in WITHOUT_SPACES:
        return pieces
    words: list[tuple[str, int]] = []
    for text, count in pieces:
        if not words or text.startswith(" ") or text.strip() in string.punctuation:
            words.append((text, count))
        else:
            begun, before = words[-1]
            words[-1] = begun + text, before + count
    return words


def _whole_characters(token_ids: list[int], decode: Decode) -> list[tuple[str, int]]:
    """The shortest runs of tokens whose text has no half characters, apart from those that the
    whole text has too."""
    whole = decode(token_ids)
    pieces: list[tuple[str, int]] = []
    begin, offset = 0, 0
    for end in range(1, len(token_ids) + 1):
        text = decode(token_ids[begin:end])
        unfinished = text.find(_UNFINISHED)
        position = offset + unfinished
        is_whole = unfinished < 0 or whole[position : position + 1] == _UNFINISHED
        if is_whole or end == len(token_ids):
            pieces.append((text, end - begin))
            begin, offset = end, offset + len(text)
    return pieces
