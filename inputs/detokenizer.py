"""Tokens back to text, as they come, and the search for stop strings in it."""

import re
from collections.abc import Callable
from typing import Any, Protocol

Decode = Callable[[list[int]], str]
_UNFINISHED = "\ufffd"  # what a tokenizer makes of a character whose bytes have not all come yet


class Pieces(Protocol):
    """Text of a growing token sequence, piece by piece."""

    def add(self, token: int) -> str:
        """Takes in a token; returns the text that can't change any more."""
        ...

    def rest(self) -> str:
        """What is left when no more tokens come: characters that stayed unfinished."""
        ...


class DecodedAgain:
    """For any tokenizer. Only the last few tokens are decoded again with each."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._prefix, self._read = (
            0,
            0,
        )  # tokens from `prefix` give context; those before `read` have been returned

    def add(self, token: int) -> str:
        self._ids.append(token)
        new = self.rest()
        if not new or new.endswith(_UNFINISHED):
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        return new

    def rest(self) -> str:
        before = self._decode(self._ids[self._prefix : self._read])
        return self._decode(self._ids[self._prefix :])[len(before) :]


class Streamed:
    """For tokenizers of the `tokenizers` library, by its DecodeStream. `hidden`: of tokens that are never shown."""

    def __init__(
        self,
        backend: Any,
        decode: Decode,
        skip_special_tokens: bool,
        hidden: re.Pattern[str] | None = None,
    ) -> None:
        from tokenizers.decoders import DecodeStream

        self._backend, self._decode, self._hidden = backend, decode, hidden
        self._stream: Any = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._ids: list[int] = []
        self._text = ""

    def add(self, token: int) -> str:
        self._ids.append(token)
        new = self._step(token) or ""
        self._text += new
        return new

    def rest(self) -> str:
        whole = self._decode(self._ids)
        return whole[len(self._text) :] if whole.startswith(self._text) else ""

    def _step(self, token: int) -> str | None:
        if self._stream is not None:
            try:
                piece: str | None = self._stream.step(self._backend, token)
                return self._hidden.sub("", piece) if piece and self._hidden is not None else piece
            except Exception:  # it gives up where a token changes the text before it: the whole is decoded from here on
                self._stream = None
        rest = self.rest()
        return None if rest.endswith(_UNFINISHED) else rest


def backend_of(tokenizer: Any) -> Any:
    """The `tokenizers` library's tokenizer, where decoding is that and nothing more; else None."""
    from transformers import PreTrainedTokenizerFast, WhisperTokenizer

    if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.clean_up_tokenization_spaces:
        return None
    own = type(tokenizer)
    # Whisper's own decoding drops timestamps, which the caller hides.
    if own is WhisperTokenizer or (own.decode, own._decode) == (
        PreTrainedTokenizerFast.decode,
        PreTrainedTokenizerFast._decode,
    ):
        return tokenizer.backend_tokenizer
    return None


class TextStream:
    """Text of one growing token sequence, from the tokenizer's `decode` or better `pieces`."""

    def __init__(
        self,
        decode: Decode,
        stop: tuple[str, ...],
        min_tokens: int,
        include_stop: bool,
        pieces: Pieces | None = None,
    ) -> None:
        self._pieces: Pieces = DecodedAgain(decode) if pieces is None else pieces
        self._stop, self._min_tokens, self._include_stop = stop, min_tokens, include_stop
        self._hold_back = (
            max((len(each) for each in stop), default=1) - 1
        )  # a stop string may begin in it
        self.token_ids: list[int] = []
        self.text = ""
        self.stopped = False
        self._sent, self._search_from = 0, 0
        self._ended = False

    def add(self, token_ids: list[int]) -> None:
        """Takes in new tokens; ignored once a stop string was met."""
        for token in token_ids:
            if self.stopped:
                return
            self.token_ids.append(token)
            if new := self._pieces.add(token):
                self._search_from = max(0, len(self.text) - self._hold_back)
                self.text += new
            if len(self.token_ids) > self._min_tokens:
                self._search()

    def _search(self) -> None:
        found = [
            (at, each)
            for each in self._stop
            if (at := self.text.find(each, self._search_from)) >= 0
        ]
        if found:
            at, each = min(found)
            self.text = self.text[: at + (len(each) if self._include_stop else 0)]
            self.stopped = True

    def take(self, final: bool = False) -> str:
        """Text that has not been taken yet; until `final`, what might become a stop string is held back."""
        if final and not self.stopped and not self._ended:
            self.text += self._pieces.rest()
            self._ended = True
        end = (
            len(self.text)
            if final or self.stopped
            else max(self._sent, len(self.text) - self._hold_back)
        )
        new, self._sent = self.text[self._sent : end], end
        return new
