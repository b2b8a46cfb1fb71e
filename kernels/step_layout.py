"""Triton kernel that makes of slots and lengths what a step's other kernels read: where
each row's tokens begin, which tokens they are, and the page tables in the order of the
rows.

The host then computes and copies nothing whose size grows with the sequences' length.
`decoder/step_inputs.py` has the same in numpy.
"""

import torch
import triton
import triton.language as tl

NO_COLUMN = tl.constexpr(-1)


@triton.jit(do_not_specialize=["rows", "num_tokens", "scratch_slot", "scratch_position"])
def _layout_kernel(
    slots, query_lens, kv_lens, new_columns, new_pages, tables, tokens,
    cu_seqlens_q, last_tokens, token_slots, positions, slot_mapping, token_ids, table_rows,
    rows, num_tokens, scratch_slot, scratch_position,
    TABLE: tl.constexpr, TOKENS: tl.constexpr, PAGE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program lays one row out; the last one, the padding behind all rows' tokens."""
    row = tl.program_id(0)
    index = tl.arange(0, ROWS)
    all_lens = tl.load(query_lens + index, mask=index < rows, other=0)
    start = tl.sum(tl.where(index < row, all_lens, 0), 0)
    tl.store(cu_seqlens_q + row, start)
    block = tl.arange(0, BLOCK)
    if row == rows:
        for first in range(start, num_tokens, BLOCK):
            token = first + block
            inside = token < num_tokens
            tl.store(token_slots + token, block * 0 + scratch_slot, mask=inside)
            tl.store(positions + token, block * 0, mask=inside)
            tl.store(slot_mapping + token, block * 0 + scratch_position, mask=inside)
            tl.store(token_ids + token, (block * 0).to(tl.int64), mask=inside)
    else:
        slot, kv_len = tl.load(slots + row), tl.load(kv_lens + row)
        query_len = tl.load(query_lens + row)
        new_column, new_page = tl.load(new_columns + row), tl.load(new_pages + row)
        table = tables + slot.to(tl.int64) * TABLE
        tl.store(last_tokens + row, start + query_len - 1)
        for first in range(0, TABLE, BLOCK):
            column = first + block
            page = tl.load(table + column, mask=column < TABLE, other=0)
            page = tl.where(column == new_column, new_page, page)
            tl.store(table_rows + row * TABLE + column, page, mask=column < TABLE)
        if new_column != NO_COLUMN:
            tl.store(table + new_column, new_page)
        own_tokens = tokens + slot.to(tl.int64) * TOKENS
        for first in range(0, query_len, BLOCK):
            query = first + block
            inside = query < query_len
            token, position = start + query, kv_len - query_len + query
            column = position // PAGE
            page = tl.load(table + column, mask=inside, other=0)
            page = tl.where(column == new_column, new_page, page)  # maybe not yet in the table
            tl.store(token_slots + token, block * 0 + slot, mask=inside)
            tl.store(positions + token, position, mask=inside)
            tl.store(slot_mapping + token, page * PAGE + position % PAGE, mask=inside)
            token_id = tl.load(own_tokens + position, mask=inside, other=0)
            tl.store(token_ids + token, token_id, mask=inside)


def lay_out(
    slots: torch.Tensor,
    query_lens: torch.Tensor,
    kv_lens: torch.Tensor,
    new_columns: torch.Tensor,
    new_pages: torch.Tensor,
    *,
    tables: torch.Tensor,
    tokens: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    last_tokens: torch.Tensor,
    token_slots: torch.Tensor,
    positions: torch.Tensor,
    slot_mapping: torch.Tensor,
    token_ids: torch.Tensor,
    table_rows: torch.Tensor,
    page_size: int,
    scratch_slot: int,
    scratch_position: int,
    max_rows: int,
) -> None:
    """Fills the outputs, from `cu_seqlens_q` on, and writes the rows' new pages into `tables`.

    Row i computes the last `query_lens[i]` of the `kv_lens[i]` tokens in `slots[i]`.
    `new_pages[i]` belongs into column `new_columns[i]` of its table, unless that is -1.
    By slot: `tables` [slots, width] int32, `tokens` [slots, columns] int64. Outputs,
    int32 but `token_ids`: `cu_seqlens_q` [rows + 1], `last_tokens` [rows], `table_rows`
    [rows, width], and [tokens] each of the others, padded with the scratch slot and
    `scratch_position` of the pool. `max_rows`: of any call.
    """
    rows, width = table_rows.shape
    _layout_kernel[(rows + 1,)](
        slots, query_lens, kv_lens, new_columns, new_pages, tables, tokens,
        cu_seqlens_q, last_tokens, token_slots, positions, slot_mapping, token_ids, table_rows,
        rows, len(token_ids), scratch_slot, scratch_position,
        TABLE=width, TOKENS=tokens.shape[1], PAGE=page_size,
        ROWS=triton.next_power_of_2(max_rows), BLOCK=128, num_warps=1,
    )  # fmt: skip
