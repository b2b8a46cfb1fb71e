"""Writes cross KV: keys and values that every decoder layer computes from an encoder's
hidden states, or the states themselves."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from antiphon.decoder.models.interface import DecoderModel
from antiphon.kv.arena import StateArena
from antiphon.kv.pool import KVPool
from antiphon.runtime.device import together_to_device
from antiphon.runtime.graphs import GraphSet, Work
from antiphon.scheduler.cross_views import CrossSource
from antiphon.scheduler.plan import CrossWrite


class CrossKV:
    """Computes cross KV from hidden states in the arena, and writes it to its pages; or
    copies the states there, where cross-attention reads them.

    `models`: those that have layers in the pages, each with a pool of these layers.
    """

    def __init__(self, models: Sequence[tuple[DecoderModel, KVPool]], arena: StateArena) -> None:
        self.models, self.arena = models, arena
        self.pool = models[0][1]  # its pages are the same in all of them
        self.graphs: CrossWriteGraphs | None = None

    @torch.inference_mode()
    def capture(self, sizes: list[int], hidden_size: int, dtype: torch.dtype) -> None:
        """Captures graphs for these numbers of encoder tokens, with any attention
        backend. A copy of hidden states needs no graph."""
        if self.pool.states is not None:
            return
        shape = (max(sizes), hidden_size)
        hidden = torch.zeros(shape, dtype=dtype, device=self.arena.device)
        scratch = self.pool.scratch_page * self.pool.page_size
        self.graphs = CrossWriteGraphs(self._write, hidden, sizes, scratch, self.models[0][0])

    def _write(self, states: torch.Tensor, slot_mapping: torch.Tensor) -> None:
        if self.pool.states is not None:
            return self.pool.states.write(slot_mapping, states)
        for model, pool in self.models:
            model.write_cross(states, slot_mapping, pool)

    def write(self, writes: list[CrossWrite]) -> None:
        """Queues `writes` on the device."""
        if not writes:
            return
        offsets = np.arange(self.pool.page_size)
        positions: list[np.ndarray] = []
        arena_rows: list[np.ndarray] = []
        for write in writes:
            places = (write.pages[:, None] * self.pool.page_size + offsets).reshape(-1)
            whole = (CrossSource(write.key, 0, write.num_tokens, 0),)
            for key, first, count, start in write.sources or whole:
                arena_rows.append(self.arena.rows([key])[first : first + count])
                positions.append(places[start : start + count])
        rows, slot_mapping = together_to_device(
            [np.concatenate(arena_rows), np.concatenate(positions).astype(np.int32)],
            self.arena.device,
        )
        if self.graphs is not None:
            self.graphs.replay(self.arena.states, rows, slot_mapping)
        else:
            self._write(self.arena.states[rows], slot_mapping)


class CrossWriteGraphs:
    """Graphs that write the cross KV of a number of encoder tokens. Without them, a
    step that admits new clips would take longer to launch every layer's projections
    than the device takes to compute them."""

    def __init__(
        self,
        write: Callable[[torch.Tensor, torch.Tensor], None],
        hidden: torch.Tensor,
        sizes: list[int],
        scratch: int,
        model: nn.Module,
    ) -> None:
        """`write` takes states [tokens, hidden] and their slot mapping [tokens]. The
        graphs read states from `hidden`, [largest of `sizes`, hidden]. `scratch`: the
        position in the KV pool that padding goes to."""
        self._hidden, self._scratch = hidden, scratch
        self._slot_mapping = torch.full(
            (len(hidden),), scratch, dtype=torch.int32, device=hidden.device
        )

        def prepare(size: int) -> tuple[None, Work]:
            return None, partial(write, hidden[:size], self._slot_mapping[:size])

        largest_first = sorted(sizes, reverse=True)
        self._graphs = GraphSet("cross KV", hidden.device, model, largest_first, prepare)
        self.report = self._graphs.report

    def replay(self, states: torch.Tensor, rows: torch.Tensor, slot_mapping: torch.Tensor) -> None:
        """Writes `states[rows]` at `slot_mapping` [tokens] int32, in pieces of the
        largest graph's size. `rows`: [tokens] int64."""
        largest = len(self._hidden)
        pieces = zip(rows.split(largest), slot_mapping.split(largest), strict=True)
        for part, positions in pieces:
            self._replay(states, part, positions)

    def _replay(self, states: torch.Tensor, rows: torch.Tensor, slot_mapping: torch.Tensor) -> None:
        tokens = len(rows)
        size = min(size for size in self._graphs.shapes if size >= tokens)
        torch.index_select(states, 0, rows, out=self._hidden[:tokens])
        self._slot_mapping[:tokens].copy_(slot_mapping)
        self._slot_mapping[tokens:size].fill_(self._scratch)
        self._graphs.replay(size)


def cross_write_sizes(max_cross_len: int, fixed: bool) -> list[int]:
    """Whole windows where all inputs are equally long (audio); else a few sizes, whose
    padding is a third at most."""
    if fixed:
        return [count * max_cross_len for count in (1, 2, 3, 4, 6, 8)]
    return [128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096]
