"""Accounting of KV pages: who owns which page id. Knows no tensors.

One pool serves self and cross attention, unless what a decoder attends to is kept in pages of
another kind (`PagePool.cross`). Every page is in one of three places:

            allocate            release
      free ----------> owned ------------> free            pages without a key: self KV
      free ----------> owned <-----------> cached -> free  pages with a key: cross KV
            allocate_keyed    share,            evicted
                              release_keyed

      owned --publish--> owned block <-----> cached -> free  a page of self KV that is full
                              share_blocks,     evicted
                              release

Owners are counted: requests with the same media share its cross pages, and sequences
that begin alike, forks among them, share the self pages that are full. A key is the
content hash of the media, so every request for the same clip or text finds the pages
that the first one filled. The hash of a block names its tokens and all before them: so
a sequence finds the pages of its beginning. A cached page has a key or a hash and no
owner; it may be evicted, least recently used first.
"""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from antiphon.config.arithmetic import ceil_div


def pages_for(num_tokens: int, page_size: int) -> int:
    """Pages of `page_size` tokens that hold `num_tokens`."""
    return ceil_div(num_tokens, page_size)


class PagePool:
    """Page ids 0 .. num_pages - 1. All methods cost time in proportion to the pages they name."""

    def __init__(self, num_pages: int, cross: "PagePool | None" = None) -> None:
        """`cross`: of the pages with keys, where they are a kind apart."""
        self.num_pages, self._cross = num_pages, cross
        self._stack = np.arange(num_pages, dtype=np.int32)[::-1].copy()  # low ids first
        self._num_free = num_pages  # of the stack, from its beginning
        self._owners = np.zeros(num_pages, np.int32)  # of pages without a key
        self._by_key: dict[str, np.ndarray] = {}
        self._key_owners: dict[str, int] = {}
        self._blocks: dict[bytes, int] = {}  # pages by hash
        self._hashes: dict[int, bytes] = {}  # of these pages
        # Keys and hashes without owners, least recently used first.
        self._unused: OrderedDict[str | bytes, None] = OrderedDict()
        self._num_unused_pages = 0

    @property
    def cross(self) -> "PagePool":
        """The pool of the pages that have keys; mostly this one."""
        return self if self._cross is None else self._cross

    @property
    def num_available(self) -> int:
        """Pages that an allocation can have: free and cached ones."""
        return self._num_free + self._num_unused_pages

    @property
    def num_free(self) -> int:
        return self._num_free

    @property
    def num_by_kind(self) -> dict[str, int]:
        """All pages: those of self KV and of cross KV that have owners, cached and free ones. From
        any thread, so that numbers of different moments may be among them."""
        unused = set(self._unused)
        cross = sum(len(pages) for key, pages in list(self._by_key.items()) if key not in unused)
        free, cached = self._num_free, self._num_unused_pages
        own = max(0, self.num_pages - free - cached - cross)
        return {"self": own, "cross": cross, "cached": cached, "free": free}

    @property
    def counters(self) -> dict[str, int]:
        """For people: pages in all, those available, and by kind; of hidden states as well where
        these have pages of their own. From any thread."""
        counts = {"kv_pages": self.num_pages, "kv_pages_available": self.num_available}
        counts |= {f"kv_pages_{kind}": count for kind, count in self.num_by_kind.items()}
        if self._cross is None:
            return counts
        states, kinds = self._cross, self._cross.num_by_kind
        counts["hidden_state_pages"] = states.num_pages
        counts["hidden_state_pages_available"] = states.num_available
        counts["hidden_state_pages_used"] = kinds["cross"]
        return counts | {f"hidden_state_pages_{kind}": kinds[kind] for kind in ("cached", "free")}

    @property
    def keys(self) -> list[str]:
        """Of all keyed pages, in use or not. From any thread."""
        return list(self._by_key)

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def available_beside(self, key: str) -> int:
        """Pages that an allocation can have if those of `key` must stay."""
        return self.num_available - (len(self._by_key[key]) if key in self._unused else 0)

    def allocate(self, count: int) -> np.ndarray | None:
        """`count` pages with one owner each, or None if fewer are available. Evicts
        cached pages as needed."""
        pages = self._take(count)
        if pages is not None:
            self._owners[pages] = 1
        return pages

    def _take(self, count: int) -> np.ndarray | None:
        if count > self.num_available:
            return None
        while self._num_free < count:
            self._forget(next(iter(self._unused)))
        self._num_free -= count
        return self._stack[self._num_free : self._num_free + count][::-1].copy()

    def _free(self, pages: np.ndarray | list[int]) -> None:
        self._stack[self._num_free : self._num_free + len(pages)] = pages
        self._num_free += len(pages)

    def allocate_keyed(self, key: str, count: int) -> np.ndarray | None:
        """As `allocate`; later requests find the pages by `key`, which has none yet."""
        assert key not in self._by_key
        pages = self._take(count)
        if pages is not None:
            self._by_key[key], self._key_owners[key] = pages, 1
        return pages

    def share(self, key: str) -> np.ndarray:
        """Adds an owner to the pages of `key`, and returns them [pages]."""
        pages = self._by_key[key]
        if key in self._unused:
            del self._unused[key]
            self._num_unused_pages -= len(pages)
        self._key_owners[key] += 1
        return pages

    def retain(self, pages: np.ndarray, times: int | np.ndarray = 1) -> None:
        """Adds owners to `pages` [pages] without a key, which have some: forked
        sequences read them too, and none of them is written again. `times`: how many,
        or of each page [pages]."""
        assert (self._owners[pages] >= 1).all()
        self._owners[pages] += times

    def release(self, pages: np.ndarray, times: int | np.ndarray = 1) -> None:
        """Takes owners from `pages` [pages] without a key, in their order in a
        sequence. Those without others are free, or stay cached if they are blocks.
        `times`: as in `retain`."""
        owners = self._owners[pages] - times
        self._owners[pages] = owners
        if owners.any():
            assert (owners >= 0).all()
            pages = pages[owners == 0]
        if not self._hashes:
            self._free(pages)
            return
        unpublished: list[int] = []
        for page in reversed(pages.tolist()):  # a block is of no use without those before it
            if (block := self._hashes.get(page)) is None:
                unpublished.append(page)
            else:
                self._unused[block] = None
                self._num_unused_pages += 1
        self._free(unpublished)

    def release_keyed(self, key: str, keep: bool = True) -> None:
        """Takes an owner from the pages of `key`. Without owners they stay cached;
        where not to `keep`, they are the first that are evicted."""
        assert self._key_owners[key] >= 1
        self._key_owners[key] -= 1
        if not self._key_owners[key]:
            self._unused[key] = None
            if not keep:
                self._unused.move_to_end(key, last=False)
            self._num_unused_pages += len(self._by_key[key])

    def publish(self, page: int, block: bytes) -> None:
        """`page`, which has an owner, is full and not written again: `block` is the
        hash of its tokens and all before them. Does nothing where another page holds
        the same, or this one is published already."""
        assert self._owners[page]
        if block not in self._blocks and page not in self._hashes:
            self._blocks[block], self._hashes[page] = page, block

    def find_blocks(self, blocks: Sequence[bytes]) -> np.ndarray:
        """The pages [n] of the first n of `blocks`: all before the first that is not here."""
        pages: list[int] = []
        for block in blocks:
            if (page := self._blocks.get(block)) is None:
                break
            pages.append(page)
        return np.array(pages, np.int32)

    def share_blocks(self, pages: np.ndarray) -> None:
        """Adds an owner to `pages` [pages] that `find_blocks` has found."""
        for page in pages[self._owners[pages] == 0].tolist():
            del self._unused[self._hashes[page]]
            self._num_unused_pages -= 1
        self._owners[pages] += 1

    def num_unused(self, pages: np.ndarray) -> int:
        """How many of `pages` [pages] have no owner."""
        return len(pages) - int(np.count_nonzero(self._owners[pages]))

    def discard(self, key: str) -> None:
        """Frees the cached pages of `key`, whose content is unusable because its write
        failed. Does nothing while they have owners."""
        if key in self._unused:
            self._forget(key)

    def _forget(self, key: str | bytes) -> None:
        """Frees the cached pages of a key, or that of a block."""
        del self._unused[key]
        if isinstance(key, bytes):
            page = self._blocks.pop(key)
            del self._hashes[page]
            self._num_unused_pages -= 1
            self._free([page])
            return
        pages = self._by_key.pop(key)
        del self._key_owners[key]
        self._num_unused_pages -= len(pages)
        self._free(pages)

    def keyed(self) -> list[int]:
        """All pages that have a key. For tests."""
        pages: list[int] = np.concatenate([*self._by_key.values(), np.empty(0, np.int32)]).tolist()
        return pages

    def check(self) -> None:
        """Asserts that every page is in exactly one place. For tests."""
        keyed, free = [*self.keyed(), *self._hashes], set(self._stack[: self._num_free].tolist())
        assert len(keyed) == len(set(keyed)), "a page under two keys or hashes"
        assert self._num_free == len(free), "a page is free twice"
        assert not free & set(keyed), "a page is free and keyed"
        owned = set(np.flatnonzero(self._owners).tolist())
        assert not owned & free, "a page is free and owned"
        assert not owned & set(self.keyed()), "an owned page has a key"
        assert owned | set(keyed) | free == set(range(self.num_pages)), "a page is lost"
        assert self._blocks == {block: page for page, block in self._hashes.items()}
        assert self._num_unused_pages == sum(
            1 if isinstance(key, bytes) else len(self._by_key[key]) for key in self._unused
        )
        for block, page in self._blocks.items():
            assert (block in self._unused) == (self._owners[page] == 0)
        assert self._by_key.keys() == self._key_owners.keys()
        for key, owners in self._key_owners.items():
            assert (key in self._unused) == (owners == 0)
