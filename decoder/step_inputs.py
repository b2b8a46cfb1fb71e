"""What one step reads beside tokens and weights: slots, lengths, positions and page tables, as one copied buffer.

The host fills a pinned buffer with numpy and copies it to the device at once. Tensors on the device are views whose places depend
only on the step's shape, so a graph captured for a shape finds every later step's inputs where it expects them.
"""

from dataclasses import dataclass

import numpy as np
import torch

from antiphon.attention.interface import PagedBatch
from antiphon.config.arithmetic import round_up
from antiphon.scheduler.plan import StepPlan

ALIGNMENT = 32  # elements


@dataclass(frozen=True)
class StepShape:
    """`max_query_len` bounds every sequence's; `max_kv_len` and `max_cross_len` likewise. Graphs are captured per shape."""

    sequences: int
    tokens: int
    max_query_len: int
    max_kv_len: int
    max_cross_len: int

    @classmethod
    def of(cls, plan: StepPlan) -> "StepShape":
        longest = (int(each.max()) for each in (plan.query_lens, plan.kv_lens, plan.cross_lens))
        return cls(len(plan.slots), plan.num_tokens, *longest)


@dataclass(frozen=True)
class StepInputs:
    """On the device, all int32. Rows past the step's own are padding: a sequence of one token on the scratch page."""

    shape: StepShape
    slots: torch.Tensor  # [sequences] rows of the batch
    last_tokens: torch.Tensor  # [sequences] row of each sequence's last token
    token_slots: torch.Tensor  # [tokens] the slot of each token
    positions: torch.Tensor  # [tokens]
    slot_mapping: torch.Tensor  # [tokens] where its self keys go: page * page_size + offset
    lengths: torch.Tensor  # [sequences] tokens so far
    causal: PagedBatch
    cross: PagedBatch


class InputBuffer:
    """Pinned host buffers and their twin on the device. `scratch_slot` and `scratch_page` belong to nobody.

    On a GPU a copy waits in line behind the steps before it, and the host fills the next buffer
    meanwhile. `buffers`: as many as there are steps under way and the one that is filled, so that the
    host seldom waits for a copy (`waits` counts how often). That it never overwrites a buffer that is
    still to be copied is the events' doing.
    """

    def __init__(
        self,
        max_seqs: int,
        max_tokens: int,
        self_pages: int,
        cross_pages: int,
        page_size: int,
        scratch: tuple[int, int],
        device: torch.device,
        buffers: int = 3,
    ) -> None:
        self.self_pages, self.cross_pages, self.page_size, self.device = (
            self_pages,
            cross_pages,
            page_size,
            device,
        )
        self.scratch_slot, self.scratch_page = scratch
        parts = _sizes(StepShape(max_seqs, max_tokens, 1, 1, 1), self_pages, cross_pages)
        size = _places(parts)["cross_table"].stop
        on_gpu = device.type == "cuda"
        count = buffers if on_gpu else 1
        self._hosts = [
            torch.zeros(size, dtype=torch.int32, pin_memory=on_gpu) for _ in range(count)
        ]
        self._copied = (
            [torch.cuda.Event() for _ in self._hosts] if on_gpu else []
        )  # the last copy of each
        self._device = (
            torch.zeros(size, dtype=torch.int32, device=device) if on_gpu else self._hosts[0]
        )
        self._turn = 0
        self.waits = 0

    def _next_host(self) -> torch.Tensor:
        """A buffer that the device has read."""
        self._turn = (self._turn + 1) % len(self._hosts)
        if self._copied and not self._copied[self._turn].query():
            self.waits += 1
            self._copied[self._turn].synchronize()
        return self._hosts[self._turn]

    def fill(self, plan: StepPlan, shape: StepShape) -> StepInputs:
        """The inputs of `plan` on the device, padded to `shape`; copied behind whatever the stream does now."""
        host = self._next_host()
        at = _places(_sizes(shape, self.self_pages, self.cross_pages))
        parts = {name: host.numpy()[place] for name, place in at.items()}
        padding = shape.sequences - len(plan.slots)
        query_lens, kv_lens, cross_lens = (
            _padded(each, padding, 1) for each in (plan.query_lens, plan.kv_lens, plan.cross_lens)
        )
        starts = np.concatenate([[0], np.cumsum(query_lens)])
        parts["slots"][:] = _padded(plan.slots, padding, self.scratch_slot)
        parts["cu_seqlens_q"][:] = starts
        parts["lengths"][:], parts["cross_lens"][:] = kv_lens, cross_lens
        parts["last_tokens"][:] = starts[1:] - 1
        tables = []
        for name, table in (("self_table", plan.self_table), ("cross_table", plan.cross_table)):
            rows = parts[name].reshape(shape.sequences, -1)
            rows[: len(plan.slots), : table.shape[1]] = table
            rows[: len(plan.slots), table.shape[1] :] = self.scratch_page
            rows[len(plan.slots) :] = self.scratch_page
            tables.append(rows)
        self._fill_tokens(parts, query_lens, kv_lens, starts, tables[0])
        if self._device is not host:
            used = at["cross_table"].stop
            self._device[:used].copy_(host[:used], non_blocking=True)
            self._copied[self._turn].record()
        on_device = {name: self._device[place] for name, place in at.items()}
        self_table, cross_table = (
            on_device[name].view(shape.sequences, -1) for name in ("self_table", "cross_table")
        )

        def batch(
            lens: np.ndarray, name: str, table: np.ndarray, device_table: torch.Tensor, longest: int
        ) -> PagedBatch:
            return PagedBatch(
                query_lens,
                lens,
                table,
                on_device["cu_seqlens_q"],
                on_device[name],
                device_table,
                shape.tokens,
                shape.max_query_len,
                longest,
            )

        return StepInputs(
            shape, on_device["slots"], on_device["last_tokens"], on_device["token_slots"], on_device["positions"], on_device["slot_mapping"],
            on_device["lengths"],
            batch(kv_lens, "lengths", tables[0], self_table, shape.max_kv_len),
            batch(cross_lens, "cross_lens", tables[1], cross_table, shape.max_cross_len),
        )  # fmt: skip

    def _fill_tokens(
        self,
        parts: dict[str, np.ndarray],
        query_lens: np.ndarray,
        kv_lens: np.ndarray,
        starts: np.ndarray,
        self_table: np.ndarray,
    ) -> None:
        used = int(starts[-1])
        sequence = np.repeat(np.arange(len(query_lens)), query_lens)
        positions = np.arange(used) + (kv_lens - starts[1:])[sequence]
        parts["token_slots"][:used] = parts["slots"][sequence]
        parts["token_slots"][used:] = self.scratch_slot
        parts["positions"][:used] = positions
        parts["positions"][used:] = 0
        parts["slot_mapping"][:used] = (
            self_table[sequence, positions // self.page_size] * self.page_size
            + positions % self.page_size
        )
        parts["slot_mapping"][used:] = self.scratch_page * self.page_size


def _sizes(shape: StepShape, self_pages: int, cross_pages: int) -> dict[str, int]:
    n, tokens = shape.sequences, shape.tokens
    return {
        "slots": n, "cu_seqlens_q": n + 1, "lengths": n, "cross_lens": n, "last_tokens": n, "token_slots": tokens, "positions": tokens,
        "slot_mapping": tokens, "self_table": n * self_pages, "cross_table": n * cross_pages,
    }  # fmt: skip


def _places(sizes: dict[str, int]) -> dict[str, slice]:
    """Each part begins at a multiple of ALIGNMENT: kernels are compiled anew for pointers that are aligned otherwise."""
    places, at = {}, 0
    for name, size in sizes.items():
        places[name] = slice(at, at + size)
        at += round_up(size, ALIGNMENT)
    return places


def _padded(array: np.ndarray, count: int, value: int) -> np.ndarray:
    return np.concatenate([array, np.full(count, value, array.dtype)]) if count else array
