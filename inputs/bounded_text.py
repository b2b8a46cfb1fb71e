"""Tokens of texts that may be far too long, without tokenizing those whole."""

from typing import Any

from antiphon.config.errors import PromptError

HEAD_CHARACTERS = 16  # for each token of the limit, that are looked at first: most have about 4
GROWTH = 4  # of the head, as long as it says too little: all heads together cost a third more
SLACK = 128  # tokens; more than a text's end can change in a head (WordPiece's longest word: 100)


def longest_read(limit: int) -> int:
    """How many characters are surely tokenized for a limit of tokens."""
    return HEAD_CHARACTERS * (limit + SLACK)


def bounded_ids(tokenizer: Any, text: str, limit: int, **options: Any) -> list[int]:
    """The token ids of `text`, as `tokenizer(text, **options)` gives them.

    Raises PromptError for a long text of which a head is over twice the `limit` of tokens already.
    How long a text is says too little by itself: blanks may be one token, or none, and characters
    that the vocabulary lacks one for all. A text that is a little over the limit is the caller's
    to refuse.
    """
    size = longest_read(limit)
    while size < len(text):
        count = len(tokenizer(text[:size], **options).input_ids)
        if count > 2 * limit + SLACK:
            raise PromptError(
                f"a text of {len(text)} characters is too long: its first {size} are {count} "
                f"tokens, where there may be {limit}: shorten or split it"
            )
        size *= GROWTH
    return list(tokenizer(text, **options).input_ids)
