"""Tokens back to text, as they come, and the search for stop strings in it."""

from collections.abc import Callable

_UNFINISHED = "\ufffd"  # what a tokenizer makes of a character whose bytes have not all come yet


class TextStream:
    """Text of one growing token sequence. `decode` is the tokenizer's; only the last few tokens are decoded again."""

    def __init__(self, decode: Callable[[list[int]], str], stop: tuple[str, ...], min_tokens: int, include_stop: bool) -> None:
        self._decode, self._stop, self._min_tokens, self._include_stop = decode, stop, min_tokens, include_stop
        self._hold_back = max((len(each) for each in stop), default=1) - 1  # a stop string may begin in it
        self.token_ids: list[int] = []
        self.text = ""
        self.stopped = False
        self._sent, self._search_from = 0, 0
        self._prefix, self._read = 0, 0  # tokens from `prefix` give context; those before `read` are in `text`

    def add(self, token_ids: list[int]) -> None:
        """Takes in new tokens; ignored once a stop string was met."""
        for token in token_ids:
            if self.stopped:
                return
            self.token_ids.append(token)
            self._extend()
            if len(self.token_ids) > self._min_tokens:
                self._search()

    def _extend(self) -> None:
        before = self._decode(self.token_ids[self._prefix : self._read])
        after = self._decode(self.token_ids[self._prefix :])
        if len(after) > len(before) and not after.endswith(_UNFINISHED):
            self._search_from = max(0, len(self.text) - self._hold_back)
            self.text += after[len(before) :]
            self._prefix, self._read = self._read, len(self.token_ids)

    def _search(self) -> None:
        found = [(at, each) for each in self._stop if (at := self.text.find(each, self._search_from)) >= 0]
        if found:
            at, each = min(found)
            self.text = self.text[: at + (len(each) if self._include_stop else 0)]
            self.stopped = True

    def take(self, final: bool = False) -> str:
        """Text that has not been taken yet; until `final`, what might become a stop string is held back."""
        if final and not self.stopped:
            self.text += self._decode(self.token_ids[self._prefix :])[
                len(self._decode(self.token_ids[self._prefix : self._read])) :
            ]
            self._prefix = self._read = len(self.token_ids)
        end = len(self.text) if final or self.stopped else max(self._sent, len(self.text) - self._hold_back)
        new, self._sent = self.text[self._sent : end], end
        return new
