"""What `antiphon info` says of the ranks of a model's halves."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

from antiphon.actors.placement import colocates, has_several_ranks
from antiphon.config.options import EngineConfig
from antiphon.config.parallel import Parallel
from antiphon.decoder.room import PageCounts
from antiphon.engine.rank_shares import CacheShare, RankShare, pages_of_ranks, rank_shares
from antiphon.families.checkpoint import ModelConfig
from antiphon.kernels.shared_rows import SHARED_BYTES
from antiphon.layers.shard import Shard, check_parallel
from antiphon.runtime.device import Target
from antiphon.runtime.ranks import Ranks
from antiphon.runtime.symmetric_memory import TWO_SHOT_BYTES

KIB, MIB = 2**10, 2**20


@dataclass(frozen=True)
class Layout:
    """`ranks` of one replica of each half, by its name."""

    ranks: dict[str, Parallel]
    colocated: bool

    @classmethod
    def of(cls, model: ModelConfig, config: EngineConfig) -> Self:
        """As far as it does not depend on what a cluster has free. Raises ConfigurationError for
        one that cannot be."""
        colocated = colocates(config, rooms=None)
        ranks = config.layout(colocated)
        for half in filter(None, (model.encoder, model.decoder_half)):
            check_parallel(half, ranks[half.side])
        return cls(ranks, colocated)

    def first_shard(self, half: str) -> Shard:
        """That of the first rank, whose heads are no fewer than any other's."""
        parallel = self.ranks.get(half, Parallel())
        if parallel.mode == "data":
            return Shard()
        return Shard(Ranks.imagined(parallel, 0).tensor)

    def pages(self, model: ModelConfig, config: EngineConfig, target: Target) -> PageCounts | None:
        """Of a decoder's cache; None without one, and where it isn't known how many there will be.
        Raises ConfigurationError where they are too few."""
        if "decoder" not in self.ranks:
            return None
        return pages_of_ranks(model, config, target, self.ranks["decoder"])

    def lines(
        self,
        model: ModelConfig,
        config: EngineConfig,
        target: Target,
        pages: PageCounts | None,
        shows_cache: bool,
    ) -> list[str]:
        """The layout, and of several ranks each one's share; with `pages` of their cache, unless
        there can be none."""
        lines = [f"  layout: {self._sentence(config)}"]
        if len(self.ranks) > 1:
            lines.append(f"  hidden states: {self._handoff(config, target)}")
        shares: Iterable[RankShare] = rank_shares(model, config, target, self.ranks)
        if not shows_cache:
            shares = [replace(share, cache=None) for share in shares]
        if has_several_ranks(config):
            lines += self._sums(target)
            return lines + [line for share in shares for line in _share_lines(share, pages)]
        caches = [share.cache for share in shares if share.cache is not None]
        return lines + [f"  cache: {_cache(cache, pages)}" for cache in caches]

    def _sums(self, target: Target) -> Iterator[str]:
        """What ranks of a stage sum through, which no rank's share counts."""
        sharing = [half for half, parallel in self.ranks.items() if parallel.tensor > 1]
        if target.device.type == "cuda" and sharing:
            size = (TWO_SHOT_BYTES + SHARED_BYTES) / MIB
            once = " (once for both)" if self.colocated and len(sharing) > 1 else ""
            yield (
                f"  sums over ranks: {size:.1f} MiB more on every rank of the "
                f"{' and the '.join(sharing)}{once}, where GPUs can map each other's memory"
            )

    def _handoff(self, config: EngineConfig, target: Target) -> str:
        """How they come to the decoder: see `kv/transports`."""
        if self.colocated:
            return "stay in the decoder's process"
        transport = config.workers.state_transport
        if transport == "messages":
            return "in messages, by way of the host"
        if transport == "nixl":
            return "into the decoder's memory (NIXL)"
        memory = "shared memory" if target.device.type == "cpu" else "CUDA IPC"
        return (
            f"into the decoder's memory ({memory}); from another node by way of the host; "
            "with --no-ray they stay in one process"
        )

    def _sentence(self, config: EngineConfig) -> str:
        halves = [
            f"{config.halves[half].replicas} {half} x {parallel}"
            + (", which share inputs" if parallel.mode == "data" and parallel.num_ranks > 1 else "")
            for half, parallel in self.ranks.items()
        ]
        sentence = "; ".join(halves)
        if self.colocated:
            return f"{sentence}; colocated: on the same ranks"
        if config.workers.placement == "auto" and len(halves) > 1:
            return f"{sentence}; apart, or colocated where GPUs are few"
        return sentence


def _share_lines(share: RankShare, pages: PageCounts | None) -> Iterator[str]:
    parts = [
        f"layers {share.first_layer} to {share.last_layer}",
        f"{share.heads} heads",
        f"{share.kv_heads} of keys and values",
        f"{share.features} features",
    ]
    if share.words:
        parts.append(f"{share.words} words")
    parts.append(f"{share.weight_bytes / MIB:.1f} MiB of weights")
    yield f"    {share.half} rank {share.rank}: {', '.join(parts)}"
    if share.cache is not None:
        yield f"      cache: {_cache(share.cache, pages)}"


def _cache(share: CacheShare, pages: PageCounts | None) -> str:
    """`pages`: None where it isn't known how many there will be."""
    parts = [_pages("KV pages", share.page_bytes, None if pages is None else pages.kv)]
    if share.state_page_bytes:
        count = None if pages is None else pages.states
        parts.append(_pages("pages of hidden states", share.state_page_bytes, count))
    if share.arena_tokens:
        size = share.arena_bytes / MIB
        parts.append(f"room for {share.arena_tokens} tokens from encoders ({size:.1f} MiB)")
    return ", ".join(parts)


def _pages(kind: str, page_bytes: int, count: int | None) -> str:
    pages = f"{kind} of {page_bytes / KIB:.1f} KiB"
    return pages if count is None else f"{count} {pages} ({count * page_bytes / MIB:.1f} MiB)"
