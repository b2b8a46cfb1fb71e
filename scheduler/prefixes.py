"""Which pages of self KV hold the beginning of a sequence already.

Only full pages are shared (a block: its tokens, and the inputs that stand in place of
some of them), and only once the step that filled them has succeeded: nothing is ever
written to a shared page, and a step that fails leaves no bad page behind.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import numpy as np

from antiphon.kv.pages import PagePool
from antiphon.scheduler.batch import Batch
from antiphon.scheduler.plan import StepPlan
from antiphon.scheduler.request import Media, Request

NO_PAGES = np.empty(0, np.int32)
HASH_BYTES = 16
NEVER = np.iinfo(np.int64).max  # so many pages are "published" of what is not served


class PrefixCache:
    """Finds the beginnings of sequences in `pages`, and publishes what running ones have filled.

    Not for sequences with cross-attention, whose self KV depends on what they attend
    to. `counters` gets "prefix_cache_queries" and "prefix_cache_hits", both in tokens.
    """

    def __init__(
        self, pages: PagePool, page_size: int, counters: Counter[str], enabled: bool = True
    ) -> None:
        self.pages, self.page_size, self.enabled = pages, page_size, enabled
        self._counters = counters
        self._hashes: WeakKeyDictionary[Request, list[bytes]] = WeakKeyDictionary()

    def _serves(self, request: Request) -> bool:
        return self.enabled and request.cross is None

    def find(self, request: Request) -> np.ndarray:
        """The pages [n] that hold the first tokens of `request`, which does not run.
        What it must compute in any case is not among them: its last token, and what it
        reads out."""
        if not self._serves(request):
            return NO_PAGES
        positions = (readout.position for readout in request.readouts)
        count = min(request.length - 1, *positions, request.length) // self.page_size
        if len(self._hashes.get(request, ())) < count:
            self._hash(request, request.token_ids, count)
        return self.pages.find_blocks(self._hashes.get(request, [])[:count])

    def needs(self, request: Request) -> list[Media]:
        """The inputs in the prompt of `request` whose hidden states it needs: those
        that do not lie within what is cached."""
        placed = request.placed
        if not placed:
            return placed
        cached = len(self.find(request)) * self.page_size
        return [media for media in placed if _end(media) > cached]

    def count(self, request: Request, num_hits: int) -> None:
        """`request` begins to run, with `num_hits` pages found."""
        if self._serves(request):
            self._counters["prefix_cache_queries"] += request.length
            self._counters["prefix_cache_hits"] += num_hits * self.page_size

    def start(self, batch: Batch, request: Request, num_hits: int = 0) -> None:
        """`request` has a slot; `num_hits` of its pages need not be published."""
        batch.num_published[request.slot] = num_hits if self._serves(request) else NEVER

    def publish(self, batch: Batch, plan: StepPlan, is_live: np.ndarray) -> None:
        """`plan` has succeeded: others may share the pages that its sequences have
        filled. Not for rows that are not `is_live` [rows]."""
        if not (self.enabled and batch.asking["shares_prefixes"]):
            return
        full = plan.known_lens // self.page_size
        rows = ((full > batch.num_published[plan.slots]) & is_live).nonzero()[0]
        for slot, count in zip(plan.slots[rows].tolist(), full[rows].tolist(), strict=True):
            hashes = self._hash(batch.request_at(slot), batch.tokens[slot], count)
            for block in range(int(batch.num_published[slot]), count):
                self.pages.publish(int(batch.self_table[slot, block]), hashes[block])
            batch.num_published[slot] = count

    def _hash(self, request: Request, token_ids: np.ndarray, count: int) -> list[bytes]:
        """The hashes of at least the first `count` blocks of `token_ids` [tokens],
        which begin as those of `request` when it was last here."""
        hashes = self._hashes.setdefault(request, [])
        for block in range(len(hashes), count):
            start, end = block * self.page_size, (block + 1) * self.page_size
            content = hashlib.blake2b(hashes[-1] if hashes else b"", digest_size=HASH_BYTES)
            content.update(token_ids[start:end].astype(np.int64).tobytes())
            for name in _inputs_within(request, start, end):
                content.update(name)
            hashes.append(content.digest())
        return hashes


def _end(media: Media) -> int:
    assert media.position is not None
    return media.position + media.num_tokens


def _inputs_within(request: Request, start: int, end: int) -> Iterator[bytes]:
    """What names the hidden states that replace tokens from `start` to `end`."""
    for media in request.inputs:
        if media.position is not None and media.position < end and start < _end(media):
            yield f"|{media.key}|{media.grid}|{media.position - start}".encode()
