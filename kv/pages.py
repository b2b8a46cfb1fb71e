"""Accounting of KV pages: who owns which page id. Knows no tensors.

One pool serves self and cross attention. A page is free, or owned by one or more sequences (counted), or *cached*: it
belongs to a content key that nobody uses now and may be evicted, least recently used first. Cross pages carry a key, the
content hash of the media, so every request for the same clip or text finds the pages that the first one filled.
"""

from collections import OrderedDict

import numpy as np

from antiphon.config.arithmetic import ceil_div


def pages_for(num_tokens: int, page_size: int) -> int:
    """Pages of `page_size` tokens that hold `num_tokens`."""
    return ceil_div(num_tokens, page_size)


class PagePool:
    """Page ids 0 .. num_pages - 1. All methods cost time in proportion to the pages they name."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))  # a stack; low ids first
        self._owners = np.zeros(num_pages, np.int32)
        self._by_key: dict[str, np.ndarray] = {}
        self._unused: OrderedDict[str, None] = (
            OrderedDict()
        )  # keys without owners, least recently used first
        self._num_unused_pages = 0

    @property
    def num_available(self) -> int:
        """Pages that an allocation can have: free ones and cached ones without owners."""
        return len(self._free) + self._num_unused_pages

    @property
    def num_free(self) -> int:
        return len(self._free)

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def available_beside(self, key: str) -> int:
        """What an allocation can have while the pages of `key` are kept."""
        return self.num_available - (len(self._by_key[key]) if key in self._unused else 0)

    def allocate(self, count: int) -> np.ndarray | None:
        """`count` pages with one owner each, or None when there are not so many. Evicts cached pages as needed."""
        if count > self.num_available:
            return None
        while len(self._free) < count:
            self._forget(next(iter(self._unused)))
        pages = np.array([self._free.pop() for _ in range(count)], np.int32)
        assert not self._owners[pages].any()
        self._owners[pages] = 1
        return pages

    def allocate_keyed(self, key: str, count: int) -> np.ndarray | None:
        """As `allocate`, and later requests find the pages by `key`."""
        assert key not in self._by_key
        pages = self.allocate(count)
        if pages is not None:
            self._by_key[key] = pages
        return pages

    def share(self, key: str) -> np.ndarray:
        """One more owner for the pages of `key`."""
        pages = self._by_key[key]
        if key in self._unused:
            del self._unused[key]
            self._num_unused_pages -= len(pages)
        self._owners[pages] += 1
        return pages

    def release(self, pages: np.ndarray) -> None:
        """One owner less for pages without a key."""
        assert (self._owners[pages] == 1).all(), "a page without a key has exactly one owner"
        self._owners[pages] = 0
        self._free.extend(pages.tolist())

    def release_keyed(self, key: str) -> None:
        """One owner less; pages without owners stay cached until they are evicted."""
        pages = self._by_key[key]
        assert (self._owners[pages] >= 1).all()
        self._owners[pages] -= 1
        if not self._owners[pages[0]]:
            self._unused[key] = None
            self._num_unused_pages += len(pages)

    def discard(self, key: str) -> None:
        """Forgets content that turned out unusable (its write failed), once nobody owns it."""
        if key in self._unused:
            self._forget(key)

    def _forget(self, key: str) -> None:
        pages = self._by_key.pop(key)
        del self._unused[key]
        self._num_unused_pages -= len(pages)
        self._free.extend(pages.tolist())

    def check(self) -> None:
        """Asserts that every page is in exactly one place. For tests."""
        keyed = np.concatenate([*self._by_key.values(), np.empty(0, np.int32)]).tolist()
        assert len(keyed) == len(set(keyed)), "a page under two keys"
        assert len(self._free) == len(set(self._free)), "a page is free twice"
        assert not set(self._free) & set(keyed), "a page is free and keyed"
        owned = set(np.flatnonzero(self._owners).tolist())
        assert not owned & set(self._free), "a page is free and owned"
        assert owned | set(keyed) | set(self._free) == set(range(self.num_pages)), "a page is lost"
        assert self._num_unused_pages == sum(len(self._by_key[key]) for key in self._unused)
        for key, pages in self._by_key.items():
            assert len(set(self._owners[pages].tolist())) == 1
            assert (key in self._unused) == (self._owners[pages[0]] == 0)
