"""What one step reads beside tokens and weights: slots, lengths, positions and page tables, as one
copied buffer.

The host fills a pinned buffer with numpy and copies it to the device at once. Tensors on the device
are views whose addresses depend only on the step's shape, so a graph captured for a shape finds
every later step's inputs where it expects them.
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
    """What a graph is captured for: sizes of a step with its padding, and bounds of its lengths."""

    sequences: int
    tokens: int
    max_query_len: int  # of each sequence
    max_kv_len: int
    max_cross_len: int

    @classmethod
    def of(cls, plan: StepPlan) -> "StepShape":
        """The shape of `plan` itself, without padding."""
        longest = (int(lens.max()) for lens in (plan.query_lens, plan.kv_lens, plan.cross_lens))
        return cls(len(plan.slots), plan.num_tokens, *longest)


@dataclass(frozen=True)
class StepInputs:
    """On the device, all int32. Rows past the step's own are padding: a sequence of one token on
    the scratch page."""

    shape: StepShape
    slots: torch.Tensor  # [sequences] rows of the running batch
    sample_slots: torch.Tensor  # [sequences] as `slots`; scratch where a row samples nothing
    last_tokens: torch.Tensor  # [sequences] index of each sequence's last token in the step
    token_slots: torch.Tensor  # [tokens] the slot of each token
    positions: torch.Tensor  # [tokens] places in their sequence
    slot_mapping: torch.Tensor  # [tokens] where self keys go: page * page_size + offset
    lengths: torch.Tensor  # [sequences] tokens so far
    causal: PagedBatch
    cross: PagedBatch  # without pages where the decoder has no cross-attention


@dataclass(frozen=True)
class InputLimits:
    """The largest step, and the slot and page that belong to no sequence, for padding."""

    sequences: int
    tokens: int
    self_pages: int  # of one sequence
    cross_pages: int
    page_size: int
    scratch_slot: int
    scratch_page: int


class InputBuffer:
    """Pinned host buffers, and their twin on the device.

    On a GPU a copy waits in line behind the steps before it, and the host fills the next buffer
    meanwhile. With one buffer more than steps in flight, the host seldom waits for a copy (`waits`
    counts how often). Events make sure that no buffer is filled again before it was copied.
    """

    def __init__(self, limits: InputLimits, device: torch.device, num_buffers: int = 3) -> None:
        self.limits, self.device = limits, device
        self.scratch_slot, self.scratch_page = limits.scratch_slot, limits.scratch_page
        largest = StepShape(limits.sequences, limits.tokens, 1, 1, 1)
        size = _spans(_sizes(largest, limits))["cross_table"].stop
        on_gpu = device.type == "cuda"
        self._hosts = [
            torch.zeros(size, dtype=torch.int32, pin_memory=on_gpu)
            for _ in range(num_buffers if on_gpu else 1)
        ]
        self._copied = [torch.cuda.Event() for _ in self._hosts] if on_gpu else []
        self._device = (
            torch.zeros(size, dtype=torch.int32, device=device) if on_gpu else self._hosts[0]
        )
        self._current = 0
        self.waits = 0

    def _next_host(self) -> torch.Tensor:
        """A buffer that the device has read."""
        self._current = (self._current + 1) % len(self._hosts)
        if self._copied and not self._copied[self._current].query():
            self.waits += 1
            self._copied[self._current].synchronize()
        return self._hosts[self._current]

    def fill(self, plan: StepPlan, shape: StepShape) -> StepInputs:
        """The inputs of `plan`, padded to `shape`, on the device: copied behind whatever its stream
        does now."""
        host = self._next_host()
        spans = _spans(_sizes(shape, self.limits))
        fields = {name: host.numpy()[span] for name, span in spans.items()}
        padding = shape.sequences - len(plan.slots)
        query_lens, kv_lens, cross_lens = (
            _padded(lens, padding, 1) for lens in (plan.query_lens, plan.kv_lens, plan.cross_lens)
        )
        cu_seqlens_q = np.concatenate([[0], np.cumsum(query_lens)])
        fields["slots"][:] = _padded(plan.slots, padding, self.scratch_slot)
        sample_slots = np.where(plan.samples, plan.slots, self.scratch_slot)
        fields["sample_slots"][:] = _padded(sample_slots, padding, self.scratch_slot)
        fields["cu_seqlens_q"][:] = cu_seqlens_q
        fields["lengths"][:], fields["cross_lens"][:] = kv_lens, cross_lens
        fields["last_tokens"][:] = cu_seqlens_q[1:] - 1
        self_table, cross_table = (
            self._fill_table(fields[name].reshape(shape.sequences, pages), table)
            for name, table, pages in (
                ("self_table", plan.self_table, self.limits.self_pages),
                ("cross_table", plan.cross_table, self.limits.cross_pages),
            )
        )
        self._fill_tokens(fields, query_lens, kv_lens, cu_seqlens_q, self_table)
        device = self._copy(host, spans)
        causal, cross = (
            PagedBatch(
                query_lens=query_lens,
                kv_lens=lens,
                page_table=table,
                cu_seqlens_q=device["cu_seqlens_q"],
                kv_lens_on_device=device[lens_name],
                page_table_on_device=device[table_name].view(table.shape),
                num_tokens=shape.tokens,
                max_query_len=shape.max_query_len,
                max_kv_len=max_len,
            )
            for lens, lens_name, table, table_name, max_len in (
                (kv_lens, "lengths", self_table, "self_table", shape.max_kv_len),
                (cross_lens, "cross_lens", cross_table, "cross_table", shape.max_cross_len),
            )
        )
        return StepInputs(
            shape=shape,
            slots=device["slots"],
            sample_slots=device["sample_slots"],
            last_tokens=device["last_tokens"],
            token_slots=device["token_slots"],
            positions=device["positions"],
            slot_mapping=device["slot_mapping"],
            lengths=device["lengths"],
            causal=causal,
            cross=cross,
        )

    def _fill_table(self, rows: np.ndarray, table: np.ndarray) -> np.ndarray:
        """`rows` [padded sequences, most pages] with `table` [sequences, pages] in its corner."""
        sequences, pages = table.shape
        rows[:sequences, :pages] = table
        rows[:sequences, pages:] = self.scratch_page
        rows[sequences:] = self.scratch_page
        return rows

    def _fill_tokens(
        self,
        fields: dict[str, np.ndarray],
        query_lens: np.ndarray,
        kv_lens: np.ndarray,
        cu_seqlens_q: np.ndarray,
        self_table: np.ndarray,
    ) -> None:
        """What a step knows of each token. Padding tokens write to the scratch page."""
        page_size, used = self.limits.page_size, int(cu_seqlens_q[-1])
        sequence = np.repeat(np.arange(len(query_lens)), query_lens)
        positions = np.arange(used) + (kv_lens - cu_seqlens_q[1:])[sequence]
        pages = self_table[sequence, positions // page_size]
        fields["token_slots"][:used] = fields["slots"][sequence]
        fields["token_slots"][used:] = self.scratch_slot
        fields["positions"][:used] = positions
        fields["positions"][used:] = 0
        fields["slot_mapping"][:used] = pages * page_size + positions % page_size
        fields["slot_mapping"][used:] = self.scratch_page * page_size

    def _copy(self, host: torch.Tensor, spans: dict[str, slice]) -> dict[str, torch.Tensor]:
        """Copies `host` to the device; returns views of the copy."""
        if self._device is not host:
            used = spans["cross_table"].stop
            self._device[:used].copy_(host[:used], non_blocking=True)
            self._copied[self._current].record()
        return {name: self._device[span] for name, span in spans.items()}


def _sizes(shape: StepShape, limits: InputLimits) -> dict[str, int]:
    """Numbers of each field, in the order of the buffer."""
    sequences, tokens = shape.sequences, shape.tokens
    return {
        "slots": sequences,
        "sample_slots": sequences,
        "cu_seqlens_q": sequences + 1,
        "lengths": sequences,
        "cross_lens": sequences,
        "last_tokens": sequences,
        "token_slots": tokens,
        "positions": tokens,
        "slot_mapping": tokens,
        "self_table": sequences * limits.self_pages,
        "cross_table": sequences * limits.cross_pages,
    }


def _spans(sizes: dict[str, int]) -> dict[str, slice]:
    """Where each field is. It begins at a multiple of ALIGNMENT: kernels are compiled anew for
    pointers with another alignment."""
    spans, start = {}, 0
    for name, size in sizes.items():
        spans[name] = slice(start, start + size)
        start += round_up(size, ALIGNMENT)
    return spans


def _padded(array: np.ndarray, count: int, value: int) -> np.ndarray:
    return np.concatenate([array, np.full(count, value, array.dtype)]) if count else array
