"""Generated tokens back to text, as they come, and the search for stop strings in it."""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from copy import copy
from functools import lru_cache
from typing import Any, Protocol

from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.token_bytes import UNFINISHED, bytes_of
from antiphon.inputs.tokenizer import load_tokenizer
from antiphon.inputs.whisper.tokens import TIMESTAMP
from antiphon.runtime.threads import DaemonThreads

Decode = Callable[[list[int]], str]

TEXTS_KEPT = 16  # a window's text, and those of its segments, are asked for up to four times


class Detokenizer:
    """The way back to text of a checkpoint's `tokenizer`."""

    def __init__(self, model: ModelConfig, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._hidden = None if model.audio is None else TIMESTAMP  # tokens that are never shown
        self._fast_tokenizer = fast_tokenizer(tokenizer)
        self._adds_nothing = self._fast_tokenizer is not None and _decodes_plainly(type(tokenizer))
        self._token_texts: dict[tuple[int, bool], str] = {}  # no larger than the vocabulary
        self._texts = lru_cache(TEXTS_KEPT)(self._decode)

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        if len(token_ids) != 1:
            return self._texts(tuple(token_ids), skip_special_tokens)
        # Log-probabilities name the same single tokens over and over (those of 99 languages, say).
        key = int(token_ids[0]), skip_special_tokens
        if (text := self._token_texts.get(key)) is None:
            text = self._token_texts[key] = self._decode(token_ids, skip_special_tokens)
        return text

    def bytes_of(self, id_: int, text: str) -> bytes | None:
        return bytes_of(self._tokenizer, id_, text)

    def stream(self, params: SamplingParams) -> "TextStream":
        """For the text of one request."""
        skip = params.skip_special_tokens

        def decode(ids: list[int]) -> str:
            return self.decode(ids, skip)

        decoder: IncrementalDecoder = SlowDecoder(decode)
        if self._fast_tokenizer is not None:
            decoder = FastDecoder(self._fast_tokenizer, decode, skip, self._hidden)
        return TextStream(
            decoder, tuple(params.stop), params.min_tokens, params.include_stop_str_in_output
        )

    def _decode(self, token_ids: Sequence[int], skip_special_tokens: bool) -> str:
        # transformers first asks of each id whether it is one: most of the time that it takes.
        tokenizer = self._fast_tokenizer if self._adds_nothing else self._tokenizer
        text: str = tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text


class LateTexts:
    """Makes texts in a process that knows token ids and seldom needs one. A thread loads the
    tokenizer, which takes seconds, and holds the interpreter's lock for up to two of them."""

    def __init__(self, model: ModelConfig) -> None:
        self._model = model
        self._loaded: Future[Detokenizer] | None = None

    def __call__(self, params: SamplingParams) -> "TextStream | None":
        """As `Detokenizer.stream`; None until the tokenizer is loaded, which the first call begins.
        Raises CheckpointError where it can't be."""
        loaded = self.begin()
        return loaded.result().stream(params) if loaded.done() else None

    def begin(self) -> "Future[Detokenizer]":
        """Loads the tokenizer, unless that has begun."""
        if self._loaded is None:
            threads = DaemonThreads(1, "antiphon-tokenizer")
            self._loaded = threads.submit(self._load)
            threads.shutdown(wait=False)
        return self._loaded

    def _load(self) -> Detokenizer:
        return Detokenizer(self._model, load_tokenizer(self._model.path))


class IncrementalDecoder(Protocol):
    """The text of one growing token sequence, piece by piece."""

    def add(self, token: int) -> str:
        """Appends a token; returns the new text that later tokens can't change."""
        ...

    def rest(self) -> str:
        """The text still held back when no more tokens come: characters that stayed unfinished."""
        ...

    def copy(self) -> "IncrementalDecoder":
        """One that goes on by itself."""
        ...


class SlowDecoder:
    """For any tokenizer: decodes the last few tokens again with every new one."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        # Tokens before `returned` have been returned as text; those from `context` on are decoded
        # with the new ones, because the text of a token may depend on the one before it.
        self._context = self._returned = 0

    def add(self, token: int) -> str:
        self._ids.append(token)
        text = self.rest()
        if not text or text.endswith(UNFINISHED):
            return ""
        self._context, self._returned = self._returned, len(self._ids)
        return text

    def rest(self) -> str:
        context = self._decode(self._ids[self._context : self._returned])
        return self._decode(self._ids[self._context :])[len(context) :]

    def copy(self) -> "SlowDecoder":
        other = copy(self)
        other._ids = self._ids.copy()
        return other


class FastDecoder:
    """For tokenizers of the `tokenizers` library: uses its DecodeStream.

    `hidden` matches tokens that are never shown.
    """

    def __init__(
        self,
        tokenizer: Any,
        decode: Decode,
        skip_special_tokens: bool,
        hidden: re.Pattern[str] | None = None,
    ) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer, self._decode, self._hidden = tokenizer, decode, hidden
        self._stream: Any = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._ids: list[int] = []
        self._text = ""

    def add(self, token: int) -> str:
        self._ids.append(token)
        text = self._step(token) or ""
        self._text += text
        return text

    def rest(self) -> str:
        whole = self._decode(self._ids)
        return whole[len(self._text) :] if whole.startswith(self._text) else ""

    def copy(self) -> "FastDecoder":
        other = copy(self)
        other._stream, other._ids = copy(self._stream), self._ids.copy()
        return other

    def _step(self, token: int) -> str | None:
        if self._stream is not None:
            try:
                text: str | None = self._stream.step(self._tokenizer, token)
                return self._hidden.sub("", text) if text and self._hidden is not None else text
            except Exception:
                # DecodeStream gives up when a token changes the text before it. From here on the
                # whole sequence is decoded with every token.
                self._stream = None
        rest = self.rest()
        return None if rest.endswith(UNFINISHED) else rest


def fast_tokenizer(tokenizer: Any) -> Any:
    """The `tokenizers` object behind a tokenizer that decodes with nothing else; otherwise None."""
    from transformers import PreTrainedTokenizerFast, WhisperTokenizer

    if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.clean_up_tokenization_spaces:
        return None
    own = type(tokenizer)
    # All that Whisper's own decoding adds is to drop timestamps, which `hidden` does here.
    return tokenizer.backend_tokenizer if own is WhisperTokenizer or _decodes_plainly(own) else None


def _decodes_plainly(kind: type) -> bool:
    """Whether a fast tokenizer of this `kind` adds nothing to what its backend decodes."""
    from transformers import PreTrainedTokenizerFast as Plain

    own = getattr(kind, "decode", None), getattr(kind, "_decode", None)
    return own == (Plain.decode, Plain._decode)


class TextStream:
    """The text of one request as its tokens come, up to the first stop string.

    Stop strings count from token `min_tokens` + 1 on. `include_stop` keeps them in the text.
    """

    def __init__(
        self,
        decoder: IncrementalDecoder,
        stop: tuple[str, ...],
        min_tokens: int,
        include_stop: bool,
    ) -> None:
        self._decoder = decoder
        self._stop, self._min_tokens, self._include_stop = stop, min_tokens, include_stop
        # How much of the text's end may be the beginning of a stop string.
        self._hold_back = max((len(string) for string in stop), default=1) - 1
        self.token_ids: list[int] = []
        self.text = ""
        self.stopped = False
        self._num_taken, self._search_from = 0, 0  # characters
        self._ended = False

    def add(self, token_ids: list[int]) -> None:
        """Appends new tokens; ignores those behind a stop string."""
        for token in token_ids:
            if self.stopped:
                return
            self.token_ids.append(token)
            if text := self._decoder.add(token):
                self._search_from = max(0, len(self.text) - self._hold_back)
                self.text += text
            if len(self.token_ids) > self._min_tokens:
                self._search()

    def copy(self) -> "TextStream":
        """One that goes on by itself."""
        other = copy(self)
        other._decoder, other.token_ids = self._decoder.copy(), self.token_ids.copy()
        return other

    def _search(self) -> None:
        matches = [
            (start, string)
            for string in self._stop
            if (start := self.text.find(string, self._search_from)) >= 0
        ]
        if matches:
            start, string = min(matches)
            self.text = self.text[: start + (len(string) if self._include_stop else 0)]
            self.stopped = True

    def take(self, final: bool = False) -> str:
        """The text that has not been taken yet. Unless `final`, what may become a stop string is
        held back."""
        if final and not self.stopped and not self._ended:
            self.text += self._decoder.rest()
            self._ended = True
        end = len(self.text)
        if not final and not self.stopped:
            end = max(self._num_taken, end - self._hold_back)
        text, self._num_taken = self.text[self._num_taken : end], end
        return text
