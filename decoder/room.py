"""How many pages a decoder has room for; known before any weight is read."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from antiphon.config.arithmetic import ceil_div
from antiphon.config.errors import ConfigurationError
from antiphon.config.options import EngineConfig, SchedulerOptions
from antiphon.decoder.alignment_heads import kept_heads
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.halves import Half
from antiphon.kernels.formats import FLOAT8
from antiphon.kv.arena import StateArena
from antiphon.kv.pool import KVPool
from antiphon.kv.queries import QueryPages
from antiphon.kv.state_pages import StatePages
from antiphon.layers.shard import Part
from antiphon.runtime.device import Target
from antiphon.runtime.ranks import Ranks

GIB, MIB = 1 << 30, 1 << 20
CPU_CACHE_GIB = 4.0
INPUTS_AHEAD = 16  # full inputs in the arena of a decoder that attends to several
PROMPT_STEPS = 4  # of prompts, whose hidden states may be asked for ahead
FREE_GPU_SHARE = 0.85  # of the free memory; the rest is for activations and graphs


@dataclass(frozen=True)
class PageCounts:
    """`kv`: pages of keys and values. `states`: of hidden states, where cross-attention
    reads them; else 0."""

    kv: int
    states: int = 0


def page_counts(
    model: ModelConfig,
    config: EngineConfig,
    target: Target,
    part: Part | None = None,
    ranks: Ranks | None = None,
) -> PageCounts:
    """`num_kv_pages` if given. Else twice what `max_num_seqs` full sequences need, so
    that content stays cached; or as many as fit on the rank with the least room.

    `part`: of this rank, by default the whole half. Raises ConfigurationError, on all
    ranks, if memory does not hold one full sequence, or `num_kv_pages` not even the
    shortest one.
    """
    decoder = config.decoder
    check_num_pages(model, config)
    if decoder.num_kv_pages is not None and not decoder.attends_to_states:
        return PageCounts(decoder.num_kv_pages)
    budget, page_bytes = _budget(config, target.device), bytes_per_page(model, config, target, part)
    own, cross = _pages_of_sequence(model, decoder.kv_page_size)
    most = 2 * config.scheduler.max_num_seqs
    if decoder.attends_to_states:
        memory = _PagesApart(own, cross, page_bytes, state_page_bytes(model, config, target))
        return memory.split(budget, most, decoder.num_kv_pages, ranks, target.device)
    per_sequence = own + cross
    held = min(budget // page_bytes, most * per_sequence)
    pages = held if ranks is None else ranks.minimum(held, target.device)
    if pages < per_sequence:
        raise ConfigurationError(
            f"{_in_words(budget)} of KV cache hold {budget // page_bytes} pages of "
            f"{page_bytes} bytes{_elsewhere(pages, held)}; one full sequence needs {per_sequence}: "
            f"raise kv_cache_memory_gib, or lower max_model_len or max_encoder_len"
        )
    return PageCounts(pages)


@dataclass(frozen=True)
class _PagesApart:
    """What a full sequence needs where hidden states have pages of their own: `own`
    pages of `page_bytes`, and `cross` pages of `state_bytes`."""

    own: int
    cross: int
    page_bytes: int
    state_bytes: int

    def split(
        self,
        budget: int,
        most: int,
        num_pages: int | None,
        ranks: Ranks | None,
        device: torch.device,
    ) -> PageCounts:
        """Divides `budget` bytes: among as many full sequences as fit, at most `most`;
        or into `num_pages` pages of KV, and states beside. Raises as `page_counts`."""
        sequence = self.own * self.page_bytes + self.cross * self.state_bytes
        sequences = min(budget / sequence, most)
        pages, states = int(sequences * self.own), int(sequences * self.cross)
        if num_pages is not None:
            left = max(0, budget - num_pages * self.page_bytes)
            pages, states = num_pages, min(left // self.state_bytes, most * self.cross)
        if ranks is not None:
            pages, states = (ranks.minimum(held, device) for held in (pages, states))
        if (num_pages is None and pages < self.own) or states < self.cross:
            raise ConfigurationError(
                f"{_in_words(budget)} of KV cache hold {pages} pages of {self.page_bytes} bytes "
                f"and {states} of {self.state_bytes} bytes for hidden states; one full sequence "
                f"needs {self.own} and {self.cross}: raise kv_cache_memory_gib, or lower "
                f"{'' if num_pages is None else 'num_kv_pages, '}max_model_len or max_encoder_len"
            )
        return PageCounts(pages, states)


def state_page_bytes(model: ModelConfig, config: EngineConfig, target: Target) -> int:
    """Of hidden states that all layers attend to, on every rank."""
    width = (model.encoder or model.decoder).output_size
    dtype = FLOAT8 if config.decoder.kv_cache_dtype == "fp8" else target.dtype
    return StatePages.bytes_per_page(config.decoder.kv_page_size, width, dtype)


class CacheBytes(NamedTuple):
    """Of keys and values, and of hidden states where cross-attention reads them."""

    kv: int
    states: int = 0


def bytes_of_sequence(model: ModelConfig, config: EngineConfig, target: Target) -> CacheBytes:
    """Of the cache of one sequence of full length, on all ranks together."""
    own, cross = _pages_of_sequence(model, config.decoder.kv_page_size)
    page = bytes_per_page(model, config, target)
    if config.decoder.attends_to_states:
        return CacheBytes(own * page, cross * state_page_bytes(model, config, target))
    return CacheBytes((own + cross) * page)


def _pages_of_sequence(model: ModelConfig, page_size: int) -> tuple[int, int]:
    """One of full length: pages of its own tokens, and of what it attends to."""
    return ceil_div(model.max_decoder_len, page_size), ceil_div(model.max_cross_len, page_size)


def bytes_per_page(
    model: ModelConfig, config: EngineConfig, target: Target, part: Part | None = None
) -> int:
    """Bytes of a page of `part`, by default the whole half: its keys and values, those
    of a draft model, and the queries that are kept beside them."""
    options, half = config.decoder, model.decoder
    part = part or Part.whole(half.num_layers)
    dtype = FLOAT8 if options.kv_cache_dtype == "fp8" else target.dtype
    layers, kv_heads = _layers_and_heads(half, part)
    layers += draft_layers(model)
    queries = sum(map(len, kept_heads(model, options, part).values()))
    return KVPool.bytes_per_page(
        layers, options.kv_page_size, kv_heads, half.head_dim, dtype
    ) + QueryPages.bytes_per_page(options.kv_page_size, queries, half.head_dim, target.dtype)


def _in_words(num_bytes: int) -> str:
    gib = num_bytes / GIB
    return f"{gib:.2f} GiB" if gib >= 0.01 else f"{num_bytes / MIB:.3g} MiB"


def _elsewhere(pages: int, own: int) -> str:
    return f" (on another rank: {pages} pages)" if pages < own else ""


def _layers_and_heads(half: Half, part: Part | None) -> tuple[int, int]:
    """Layers, and heads of keys and values, whose pages `part` of a half holds."""
    part = part or Part.whole(half.num_layers)
    return len(part.layers), part.shard.heads_of(half).kv.count


def draft_layers(model: ModelConfig) -> int:
    """Of the draft model, which are the last ones of the pool; 0 without one."""
    return 0 if model.draft is None else model.draft.decoder.num_layers


def arena_tokens(model: ModelConfig, options: SchedulerOptions) -> int:
    """Hidden states that the arena holds: `encode_ahead_tokens` if given, else
    `max_num_seqs` full inputs, INPUTS_AHEAD or, where they stand in prompts, what
    PROMPT_STEPS steps can take in. It always holds all inputs of one request. 0 for a
    model without an encoder."""
    if model.encoder is None and options.encode_ahead_tokens is None:
        return 0
    longest_request = model.max_cross_len + model.max_decoder_len  # some stand in its prompt
    if model.decoder.most_attended > 1:  # inputs are long, and few sequences have one
        by_default = INPUTS_AHEAD * model.max_encoder_len
    elif model.decoder.cross_attention:
        by_default = options.max_num_seqs * model.max_encoder_len
    else:
        by_default = PROMPT_STEPS * options.max_num_batched_tokens
    return max(options.encode_ahead_tokens or by_default, longest_request)


def tokens_ahead(model: ModelConfig, options: SchedulerOptions) -> int:
    """Hidden states that a decoder asks encoders for ahead of need, at most."""
    return options.encode_ahead_tokens or arena_tokens(model, options)


def make_arena(model: ModelConfig, options: SchedulerOptions, target: Target) -> StateArena:
    """Where a decoder keeps hidden states."""
    half = model.encoder or model.decoder
    tokens = arena_tokens(model, options)
    return StateArena(tokens, half.output_size, target.dtype, target.device)


def make_pool(
    model: ModelConfig,
    config: EngineConfig,
    target: Target,
    kv_dtype: torch.dtype | None,
    part: Part | None = None,
    ranks: Ranks | None = None,
    state_factor: float = 1.0,
) -> KVPool:
    """The pool of one rank's `part` of a decoder, in `kv_dtype` or the target's dtype.
    All `ranks` have equally many pages. `state_factor`: of hidden states in float8
    pages. Raises as `page_counts`."""
    half, counts = model.decoder, page_counts(model, config, target, part, ranks)
    layers, kv_heads = _layers_and_heads(half, part)
    pool = KVPool(
        layers + draft_layers(model),
        counts.kv,
        config.decoder.kv_page_size,
        kv_heads,
        half.head_dim,
        kv_dtype or target.dtype,
        target.device,
    )
    held = part or Part.whole(half.num_layers)
    if heads := kept_heads(model, config.decoder, held):
        shape = (pool.num_pages + 1, pool.page_size, half.head_dim)
        of_layer = held.shard.heads_of(half).queries.count
        pool.queries = QueryPages(heads, of_layer, shape, target.dtype, target.device)
    if counts.states:
        width = (model.encoder or half).output_size
        sizes = (counts.states, pool.page_size, width)
        pool.states = StatePages(*sizes, pool.dtype, target.device, state_factor)
    return pool


def check_num_pages(model: ModelConfig, config: EngineConfig) -> None:
    """Raises ConfigurationError if `num_kv_pages` are fewer than any request needs: one token of a
    prompt, one behind it, and a window where all inputs are equally long."""
    num_pages, page_size = config.decoder.num_kv_pages, config.decoder.kv_page_size
    needs_window = model.has_equal_windows and not config.decoder.attends_to_states
    cross = model.max_cross_len if needs_window else 0
    least = ceil_div(2, page_size) + ceil_div(cross, page_size)
    if num_pages is not None and num_pages < least:
        window = f" ({cross} encoder tokens, {page_size} to a page)" if cross else ""
        raise ConfigurationError(
            f"num_kv_pages={num_pages} are too few for any request: the shortest needs "
            f"{least}{window}: raise num_kv_pages"
        )


def check_room(model: ModelConfig, config: EngineConfig, part: Part | None = None) -> None:
    """Raises ConfigurationError if not even one full sequence, or what `part` of the
    half keeps of it, can fit this machine.

    Called before weights are read and tables of a sequence's length are made. These
    take GPU memory too, so `page_counts` decides again afterwards.
    """
    page_counts(model, config, Target.resolve(config.model, model.raw, model.family), part)


def check_room_of_ranks(model: ModelConfig, config: EngineConfig) -> None:
    """As `check_room`, before the decoder's ranks have processes: of the rank whose
    pages take most, which the error names."""
    parallel, half = config.decoder.parallel, model.decoder
    parts = Part.all_of(parallel, half.num_layers)
    fullest = max(parts, key=lambda part: math.prod(_layers_and_heads(half, part)))
    try:
        check_room(model, config, fullest)
    except ConfigurationError as error:
        if len(parts) == 1:
            raise
        layers, heads = _layers_and_heads(half, fullest)
        raise ConfigurationError(
            f"rank {parts.index(fullest)} of the decoder's {parallel} keeps {layers} of "
            f"{half.num_layers} layers and {heads} of {half.num_kv_heads} heads: {error}; or give "
            "it more ranks"
        ) from None


def _budget(config: EngineConfig, device: torch.device) -> int:
    """Bytes for keys and values."""
    if config.decoder.kv_cache_memory_gib is not None:
        return int(config.decoder.kv_cache_memory_gib * GIB)
    if device.type == "cuda":
        return int(_free_gpu_memory(device) * FREE_GPU_SHARE)
    return int(CPU_CACHE_GIB * GIB)


def _free_gpu_memory(device: torch.device) -> int:
    """Bytes that this process may still take. On a shared GPU these are the rest of its
    share, however much is free now."""
    free, total = torch.cuda.mem_get_info(device)
    share = int(torch.cuda.get_per_process_memory_fraction() * total)
    return min(free, share - torch.cuda.memory_reserved(device))
