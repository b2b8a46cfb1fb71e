"""What one step reads beside weights: tokens, positions, slot mapping, page tables.

The host copies a few numbers for each row, however long sequences are. The device
computes the rest from these and from its state by slot. A tensor's address depends only
on the step's shape, so a captured graph finds the inputs of every later step.
"""

import dataclasses
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from msgspec.structs import replace

from antiphon.attention.interface import PagedBatch
from antiphon.config.arithmetic import round_up
from antiphon.decoder.page_tables import ALIGNMENT, PageTables
from antiphon.decoder.step_tensors import (
    GRAPH_READOUTS,
    NO_COLUMN,
    ROW_FIELDS,
    SCRATCH,
    StepInputs,
    StepShape,
    StepTensors,
)
from antiphon.runtime.device import together_to_device
from antiphon.scheduler.plan import Readouts, StepPlan

SHAPES_KEPT = 256


@dataclass(frozen=True)
class InputLimits:
    """The largest step, and the scratch slot and page of its padding."""

    sequences: int
    tokens: int
    page_size: int
    scratch_slot: int
    scratch_page: int

    @property
    def scratch_position(self) -> int:
        """In the KV pool, where padding writes."""
        return self.scratch_page * self.page_size


class InputBuffer:
    """Pinned host buffers, and what the device makes of them.

    On a GPU a copy is queued behind earlier steps, while the host fills the next
    buffer. With one buffer more than steps in flight, the host seldom waits for a copy
    (`waits` counts how often). Events keep a buffer from being filled before it was
    copied.
    """

    def __init__(
        self, limits: InputLimits, tables: PageTables, tokens: torch.Tensor, num_buffers: int = 3
    ) -> None:
        """`tokens` [slots, columns] int64, by slot."""
        self.limits, self.tables, self.tokens = limits, tables, tokens
        self.device = device = tables.device
        on_gpu = device.type == "cuda"
        self._most_readouts = round_up(max(limits.sequences, GRAPH_READOUTS), ALIGNMENT)
        size = (len(ROW_FIELDS) + 2, self._most_readouts)
        self._hosts = [
            torch.zeros(size, dtype=torch.int32, pin_memory=on_gpu)
            for _ in range(num_buffers if on_gpu else 1)
        ]
        self._copied = [torch.cuda.Event() for _ in self._hosts] if on_gpu else []
        rows = torch.zeros(size, dtype=torch.int32, device=device) if on_gpu else self._hosts[0]
        self._rows = rows
        ints = partial(torch.zeros, dtype=torch.int32, device=device)
        table_rows = ints(limits.sequences, tables.host.shape[1])
        self_pages, cross_pages = tables.views(table_rows)
        self._largest = StepTensors(
            rows=dict(zip(ROW_FIELDS, rows[: len(ROW_FIELDS)], strict=True)),
            readout_queries=rows[-2],
            readout_tokens=rows[-1],
            cu_seqlens_q=ints(limits.sequences + 1),
            last_tokens=ints(limits.sequences),
            token_slots=ints(limits.tokens),
            positions=ints(limits.tokens),
            slot_mapping=ints(limits.tokens),
            token_ids=ints(limits.tokens, dtype=torch.int64),
            table_rows=table_rows,
            self_pages=self_pages,
            cross_pages=cross_pages,
        )
        padding = [limits.scratch_slot if n is SCRATCH else n for n in ROW_FIELDS.values()]
        self._padding = np.array(padding, np.int32)[:, None]
        self._row_of = np.zeros(len(tables.host), np.int64)  # by slot
        self._tensors = lru_cache(SHAPES_KEPT)(self._views)
        self._current = 0
        self.waits = 0

    def _views(self, sequences: int, tokens: int, readouts: int) -> StepTensors:
        """The tensors of steps of a size."""
        largest = self._largest
        return StepTensors(
            rows={name: row[:sequences] for name, row in largest.rows.items()},
            readout_queries=largest.readout_queries[:readouts],
            readout_tokens=largest.readout_tokens[:readouts],
            cu_seqlens_q=largest.cu_seqlens_q[: sequences + 1],
            last_tokens=largest.last_tokens[:sequences],
            token_slots=largest.token_slots[:tokens],
            positions=largest.positions[:tokens],
            slot_mapping=largest.slot_mapping[:tokens],
            token_ids=largest.token_ids[:tokens],
            table_rows=largest.table_rows[:sequences],
            self_pages=largest.self_pages[:sequences],
            cross_pages=largest.cross_pages[:sequences],
        )

    def _next_host(self) -> torch.Tensor:
        """A buffer that the device has read."""
        self._current = (self._current + 1) % len(self._hosts)
        if self._copied and not self._copied[self._current].query():
            self.waits += 1
            self._copied[self._current].synchronize()
        return self._hosts[self._current]

    def shape_of(self, plan: StepPlan) -> StepShape:
        """The shape of `plan` without padding."""
        return StepShape.of(plan, self.tables.cross_lens[plan.slots])

    def fill(self, plan: StepPlan, shape: StepShape) -> StepInputs:
        """The inputs of `plan`, padded to `shape`: copied behind whatever the device's
        stream does now. They are complete once `lay_out` has run there."""
        host = self._next_host()
        array = host.numpy()
        rows = array[: len(ROW_FIELDS), : shape.sequences]
        self._fill_rows(rows, plan)
        if shape.readouts:
            self._fill_readouts(array[len(ROW_FIELDS) :], plan.readouts)
        if self._rows is not host:
            self._rows.copy_(host, non_blocking=True)
            self._copied[self._current].record()
        tensors = self._tensors(shape.sequences, shape.tokens, shape.readouts)
        if shape.readouts > self._most_readouts:  # outside graphs
            queries, token_ids = self._many_readouts(plan.readouts)
            tensors = dataclasses.replace(
                tensors, readout_queries=queries, readout_tokens=token_ids
            )
        if self.device.type == "cpu":
            self._lay_out_on_host(tensors)
        return StepInputs(shape, tensors, *self._batches(shape, tensors, rows))

    def _fill_readouts(self, rows: np.ndarray, readouts: Readouts) -> None:
        """Writes `rows` [2, most], padding behind `readouts`."""
        count = min(len(readouts), rows.shape[1])
        rows[:, count:] = 0
        rows[0, :count], rows[1, :count] = readouts.queries[:count], readouts.token_ids[:count]

    def _many_readouts(self, readouts: Readouts) -> list[torch.Tensor]:
        """Queries and tokens [n] of more than the buffers hold."""
        values = (readouts.queries, readouts.token_ids)
        return together_to_device([array.astype(np.int32) for array in values], self.device)

    def _fill_rows(self, rows: np.ndarray, plan: StepPlan) -> None:
        """Writes `rows` [fields, sequences], padding behind those of `plan`."""
        count = len(plan.slots)
        slots, sample_slots, query_lens, kv_lens, cross_lens, new_columns, new_pages = rows
        rows[:, count:] = self._padding
        slots[:count] = plan.slots
        sample_slots[:count] = np.where(plan.samples, plan.slots, self.limits.scratch_slot)
        query_lens[:count] = plan.query_lens
        kv_lens[:count] = plan.kv_lens
        cross_lens[:count] = self.tables.cross_lens[plan.slots]
        new_columns[:count] = NO_COLUMN
        if len(plan.new_pages.slots):
            self.tables.grow(plan.new_pages)
            self._row_of[plan.slots] = np.arange(count)
            grown = self._row_of[plan.new_pages.slots]
            new_columns[grown] = plan.new_pages.columns
            new_pages[grown] = plan.new_pages.pages

    def _batches(
        self, shape: StepShape, tensors: StepTensors, rows: np.ndarray
    ) -> tuple[PagedBatch, PagedBatch]:
        """The causal and the cross batch, from `rows` [fields, sequences] on the
        host."""
        slots, _, query_lens, kv_lens, cross_lens, _, _ = rows
        causal = PagedBatch(
            query_lens=query_lens,
            kv_lens=kv_lens,
            host_tables=self.tables.self_pages,
            slots=slots,
            cu_seqlens_q=tensors.cu_seqlens_q,
            kv_lens_on_device=tensors.rows["kv_lens"],
            page_table_on_device=tensors.self_pages,
            num_tokens=shape.tokens,
            max_query_len=shape.max_query_len,
            max_kv_len=shape.max_kv_len,
        )
        cross = replace(
            causal,
            kv_lens=cross_lens,
            host_tables=self.tables.cross_pages,
            kv_lens_on_device=tensors.rows["cross_lens"],
            page_table_on_device=tensors.cross_pages,
            max_kv_len=shape.max_cross_len,
        )
        return causal, cross

    # ------------------------------------------------------------------ on the device

    def lay_out(self, inputs: StepInputs) -> None:
        """Completes `inputs` on the device: a step's first work, also in its graph."""
        if self.device.type == "cpu":
            return  # `fill` did: there the host is the device
        self.lay_out_in_one_kernel(inputs.tensors)

    def lay_out_in_one_kernel(self, tensors: StepTensors) -> None:
        """As `_lay_out_on_host`, by a Triton kernel."""
        from antiphon.kernels.step_layout import lay_out  # Triton is there where CUDA is

        lay_out(
            *(tensors.rows[name] for name in (
                "slots", "query_lens", "kv_lens", "new_columns", "new_pages",
            )),
            tables=self.tables.on_device, tokens=self.tokens, cu_seqlens_q=tensors.cu_seqlens_q,
            last_tokens=tensors.last_tokens, token_slots=tensors.token_slots,
            positions=tensors.positions, slot_mapping=tensors.slot_mapping,
            token_ids=tensors.token_ids, table_rows=tensors.table_rows,
            page_size=self.limits.page_size, scratch_slot=self.limits.scratch_slot,
            scratch_position=self.limits.scratch_position, max_rows=self.limits.sequences,
        )  # fmt: skip

    def _lay_out_on_host(self, tensors: StepTensors) -> None:
        limits, page_size = self.limits, self.limits.page_size
        slots, query_lens, kv_lens = (
            tensors.rows[name].numpy() for name in ("slots", "query_lens", "kv_lens")
        )
        ends = query_lens.cumsum()
        used = int(ends[-1])
        tensors.cu_seqlens_q.numpy()[1:] = ends
        tensors.last_tokens.numpy()[:] = ends - 1
        np.take(self.tables.host, slots, axis=0, out=tensors.table_rows.numpy(), mode="clip")
        if used == len(slots):  # decodes only
            token_slots, positions = slots, kv_lens - 1
        else:
            token_slots = np.repeat(slots, query_lens)
            positions = np.arange(used, dtype=np.int32) + np.repeat(kv_lens - ends, query_lens)
        pages = self.tables.self_pages[token_slots, positions // page_size]
        for tensor, values, padding in (
            (tensors.token_slots, token_slots, limits.scratch_slot),
            (tensors.positions, positions, 0),
            (tensors.slot_mapping, pages * page_size + positions % page_size,
             limits.scratch_position),
            (tensors.token_ids, self.tokens.numpy()[token_slots, positions], 0),
        ):  # fmt: skip
            tensor.numpy()[:used] = values
            tensor.numpy()[used:] = padding
