"""What the heads that follow the sound attend to, read from the pages of self and cross KV."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch

from antiphon.config.arithmetic import ceil_div
from antiphon.decoder.models.interface import DecoderModel
from antiphon.decoder.page_tables import PageTables
from antiphon.kv.pages import pages_for
from antiphon.kv.pool import KVPool
from antiphon.kv.queries import QueryPages
from antiphon.runtime.device import to_device, together_to_device
from antiphon.scheduler.alignment import AlignedSequence

if TYPE_CHECKING:
    from antiphon.kernels.alignment import Keys  # Triton is there where CUDA is

MOST_WEIGHTS = 1 << 24  # of sequences that kernels take together: 64 MiB


class AlignedHeads:
    """Of one rank. `queries`: of these heads; None: this rank has none of them."""

    def __init__(
        self, decoder: DecoderModel, pool: KVPool, tables: PageTables, scale: float
    ) -> None:
        self._decoder, self._pool, self._tables, self._scale = decoder, pool, tables, scale
        self.queries, self.page_size = pool.queries, pool.page_size
        self._offsets: torch.Tensor | None = None  # of the heads' keys, behind those of a layer

    def weights(self, queries: QueryPages, one: AlignedSequence) -> torch.Tensor:
        """Attention [heads, rows, frames] float32 of these heads to the sound."""
        rows, places = together_to_device([self._rows(one), self._frames(one)], self._tables.device)
        asked = queries.read(rows)
        if self._pool.states is None:
            keys = queries.keys(self._pool.layers, places, asked.dtype)
        else:
            keys = self._keys_of_states(queries, places, asked.dtype)
        product = torch.matmul((asked * self._scale).transpose(0, 1), keys.permute(1, 2, 0))
        return product.float().softmax(-1)

    def scores(
        self, queries: QueryPages, sequences: Sequence[AlignedSequence], width: int, share: float
    ) -> torch.Tensor:
        """[all rows, frames] float32, by kernels: see `kernels.alignment.scores`."""
        parts = [
            self._scores(queries, group, width, share)
            for group in in_groups(sequences, *self._room(queries))
        ]
        if len(parts) == 1:
            return parts[0]
        most = max(part.shape[1] for part in parts)
        return torch.cat(
            [torch.nn.functional.pad(part, (0, most - part.shape[1])) for part in parts]
        )

    def _room(self, queries: QueryPages) -> tuple[int, int]:
        """As `in_groups` has it: for weights, and where keys are computed from hidden states, for
        both, and for keys once more while they are joined."""
        beside, (*_, heads, head_dim) = 0, queries.pages.shape
        if self._pool.states is not None:
            beside = ceil_div(self._pool.states.pages.shape[-1], heads) + 2 * head_dim
        return MOST_WEIGHTS // heads, beside

    def _scores(
        self, queries: QueryPages, sequences: Sequence[AlignedSequence], width: int, share: float
    ) -> torch.Tensor:
        from antiphon.kernels import alignment

        keys, pages = self._keys(queries, sequences)
        lengths, frames = zip(*((len(one.positions), one.frames) for one in sequences), strict=True)
        arrays = [
            np.concatenate([self._rows(one) for one in sequences]),
            np.array([0, *accumulate(lengths)]),
            np.array(frames),
            pages,
        ]
        places, starts, counts, table = together_to_device(
            [array.astype(np.int32) for array in arrays], self._tables.device
        )
        return alignment.scores(
            queries.pages.flatten(0, 1), keys, table, places, starts, counts,
            max(lengths), max(frames), scale=self._scale, width=width, share=share,
        )  # fmt: skip

    def _keys(
        self, queries: QueryPages, sequences: Sequence[AlignedSequence]
    ) -> "tuple[Keys, np.ndarray]":
        """Where kernels find the keys of the sound, and the pages [sequences, pages] of each
        sequence there."""
        from antiphon.kernels.alignment import Keys

        if self._pool.states is not None:
            frames = [self._frames(one) for one in sequences]
            places = to_device(np.concatenate(frames), self._tables.device)
            keys = self._keys_of_states(queries, places, queries.pages.dtype)
            starts = np.cumsum([0, *map(len, frames[:-1])])
            own = np.arange(keys.shape[1]) * keys.stride(1)
            most = max(map(len, frames))
            return (
                Keys(keys, to_device(own, keys.device), keys.stride(0), 0, 1),
                starts[:, None] + np.arange(most),
            )
        first = self._pool.layers[next(iter(queries.heads))]
        if self._offsets is None:
            self._offsets = to_device(self._offsets_of(queries, first), self._tables.device)
        most = pages_for(max(one.frames for one in sequences), self.page_size)
        pages = self._tables.cross_pages[[one.slot for one in sequences], :most]
        return Keys(first, self._offsets, first.stride(1), first.stride(2), self.page_size), pages

    def _offsets_of(self, queries: QueryPages, first: torch.Tensor) -> np.ndarray:
        """Elements [heads] from the keys of layer `first` to those of each head."""
        begin, size = first.data_ptr(), first.itemsize
        return np.array(
            [
                (self._pool.layers[layer].data_ptr() - begin) // size + number * first.stride(3)
                for layer, numbers in queries.heads.items()
                for number in numbers
            ]
        )

    def _keys_of_states(
        self, queries: QueryPages, places: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """Keys [frames, heads, head_dim], contiguous, computed from hidden states at `places`
        [frames], which the pages hold in their stead."""
        assert self._pool.states is not None
        states = self._pool.states.read(places, dtype)
        return torch.cat(
            [
                attention.absorbed.keys_of(queries.numbers[attention.layer], states)
                for attention in self._decoder.cross_attentions
                if attention.absorbed is not None and attention.layer in queries.numbers
            ],
            dim=1,
        )

    def _rows(self, one: AlignedSequence) -> np.ndarray:
        return self._places(self._tables.self_pages[one.slot], one.positions)

    def _frames(self, one: AlignedSequence) -> np.ndarray:
        return self._places(self._tables.cross_pages[one.slot], np.arange(one.frames))

    def _places(self, pages: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Where in the pool the tokens at `positions` [n] of a sequence's `pages` are."""
        size = self.page_size
        places: np.ndarray = pages[positions // size].astype(np.int64) * size + positions % size
        return places


def with_rows(
    sequences: Sequence[AlignedSequence],
) -> Iterator[tuple[AlignedSequence, int, int]]:
    """Each with the first of its rows among those of all, and the one behind its last."""
    ends = list(accumulate(len(one.positions) for one in sequences))
    return zip(sequences, [0, *ends[:-1]], ends, strict=True)


def in_groups(
    sequences: Sequence[AlignedSequence], most: int, beside: int = 0
) -> Iterator[Sequence[AlignedSequence]]:
    """`sequences` in their order, together as long as their rows times frames, padded to the
    longest, are `most` at most. Each also has `beside` rows for what is needed besides."""
    group: list[AlignedSequence] = []
    rows = frames = 0
    for one in sequences:
        own = len(one.positions) + beside
        rows, frames = rows + own, max(frames, one.frames)
        if group and rows * frames > most:
            yield group
            group, rows, frames = [], own, one.frames
        group.append(one)
    yield group
