"""What a step reads: laid out on the host, and by the kernel that does so on a GPU."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from antiphon.config.decoding_rules import DecodingRules
from antiphon.config.sampling import SamplingParams
from antiphon.decoder.page_tables import PageTables
from antiphon.decoder.step_inputs import InputBuffer, InputLimits
from antiphon.decoder.step_tensors import StepShape, StepTensors
from antiphon.scheduler.plan import Admission, NewPages, StepPlan

PAGE, SCRATCH_SLOT, SCRATCH_PAGE = 4, 16, 99
COLUMNS = 25  # of tokens by slot


def make_plan(
    query_lens: list[int], kv_lens: list[int], samples: list[bool] | None = None, **fields
) -> StepPlan:
    """Row i runs the sequence in slot n - 1 - i."""
    count = len(query_lens)
    slots = np.arange(count)[::-1].copy()
    lens = (np.array(lens) for lens in (query_lens, kv_lens))
    chosen = np.ones(count, bool) if samples is None else np.array(samples)
    return StepPlan([], [], slots, np.arange(count), *lens, chosen, **fields)


def make_buffer(cross_lens: tuple[int, ...] = (7, 10, 2)) -> InputBuffer:
    """Slot i has the self pages 6 * i + 0 ... 4 and the cross pages 60 + 3 * i + 0 ... 2."""
    tables = PageTables(SCRATCH_SLOT + 1, 6, 4, SCRATCH_PAGE, torch.device("cpu"))
    params, rules, token = SamplingParams(), DecodingRules(), np.zeros(1, np.int64)
    tables.admit(
        [
            Admission(
                slot, token, 1, 8, 0, params, rules,
                np.arange(5) + 6 * slot, np.arange(3) + 60 + 3 * slot, cross_lens[slot],
            )
            for slot in range(len(cross_lens))
        ]
    )  # fmt: skip
    limits = InputLimits(16, 200, PAGE, SCRATCH_SLOT, SCRATCH_PAGE)
    tokens = torch.arange((SCRATCH_SLOT + 1) * COLUMNS).view(-1, COLUMNS)
    return InputBuffer(limits, tables, tokens)


def test_a_mixed_step_with_padding() -> None:
    plan = make_plan([1, 3], [9, 3], [True, False])
    inputs = make_buffer().fill(plan, StepShape(4, 12, 8, 24, 16))
    tensors = inputs.tensors
    assert tensors.rows["slots"].tolist() == [1, 0, SCRATCH_SLOT, SCRATCH_SLOT]
    assert inputs.sample_slots.tolist() == [1, *[SCRATCH_SLOT] * 3]
    assert inputs.lengths.tolist() == [9, 3, 1, 1]
    assert tensors.last_tokens.tolist() == [0, 3, 4, 5]
    assert tensors.positions.tolist() == [8, 0, 1, 2] + [0] * 8
    assert tensors.token_slots.tolist() == [1, 0, 0, 0] + [SCRATCH_SLOT] * 8
    assert tensors.token_ids.tolist()[:4] == [COLUMNS + 8, 0, 1, 2]
    scratch = SCRATCH_PAGE * PAGE
    assert tensors.slot_mapping.tolist() == [8 * PAGE, 0, 1, 2] + [scratch] * 8
    assert tensors.cu_seqlens_q.tolist() == [0, 1, 4, 5, 6]
    wanted = [[6, 7, 8, 9, 10], [0, 1, 2, 3, 4], [SCRATCH_PAGE] * 5, [SCRATCH_PAGE] * 5]
    assert inputs.causal.page_table_on_device[:, :5].tolist() == wanted
    assert inputs.causal.page_table[:, :5].tolist() == wanted
    assert inputs.cross.kv_lens_on_device.tolist() == [10, 7, 1, 1]
    assert inputs.cross.page_table_on_device.shape == (4, 4)
    assert inputs.cross.page_table[0].tolist() == [63, 64, 65, SCRATCH_PAGE]


def test_one_shape_always_lies_at_the_same_place() -> None:
    """A captured graph reads where the first step of its shape was."""
    buffer, shape = make_buffer(), StepShape(4, 4, 1, 24, 16)
    first = buffer.fill(make_plan([1, 1], [9, 3]), shape)
    buffer.fill(make_plan([1, 3, 1], [9, 3, 1]), StepShape(8, 20, 8, 24, 16))
    again = buffer.fill(make_plan([1, 1, 1], [4, 5, 6]), shape)
    for name in ("positions", "slot_mapping", "last_tokens", "token_ids", "table_rows"):
        assert getattr(first.tensors, name).data_ptr() == getattr(again.tensors, name).data_ptr()
    for name, row in first.tensors.rows.items():
        assert row.data_ptr() == again.tensors.rows[name].data_ptr()
    assert first.lengths.tolist() == [4, 5, 6, 1]


class Copy:
    """Stands for the event behind a copy that waits in line: over once somebody has waited for
    it."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name, self.over = log, name, True

    def query(self) -> bool:
        return self.over

    def record(self) -> None:
        self.log.append(f"{self.name} queued")
        self.over = False

    def synchronize(self) -> None:
        self.log.append(f"{self.name} awaited")
        self.over = True


def test_a_host_buffer_is_filled_again_only_after_its_copy() -> None:
    buffer, log = make_buffer(), []
    buffer._rows = buffer._hosts[0].clone()  # as on a GPU: the copy is another one
    buffer._hosts = [buffer._hosts[0].clone() for _ in range(2)]
    buffer._copied = [Copy(log, name) for name in "ab"]
    shape, plan = StepShape(4, 4, 1, 24, 16), make_plan([1, 1], [9, 3])
    for _ in range(3):
        buffer.fill(plan, shape)
    assert log == ["b queued", "a queued", "b awaited", "b queued"]
    assert buffer.waits == 1
    buffer._copied[0].over = True
    buffer.fill(plan, shape)
    assert log[4:] == ["a queued"]
    assert buffer.waits == 1


def copied(tensors: StepTensors) -> dict[str, torch.Tensor]:
    """What is laid out."""
    return {name: value.clone() for name, value in vars(tensors).items() if torch.is_tensor(value)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="compiled there: see tests/gpu")
@settings(max_examples=10, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(1, 24), st.integers(1, 24), st.booleans()), min_size=1, max_size=6
    ),
    padding=st.integers(0, 3),
)
def test_the_kernel_lays_a_step_out_as_the_host_does(
    rows: list[tuple[int, int, bool]], padding: int
) -> None:
    """Rows (queries, tokens, whether it has grown by the page of its last token)."""
    pytest.importorskip("triton")
    buffer = make_buffer(tuple(range(1, 1 + len(rows))))
    tables = buffer.tables
    tables.on_device = torch.from_numpy(tables.host.copy())  # as on a GPU: another copy
    kv_lens = [max(queries, length) for queries, length, _ in rows]
    grown = np.array([row for row, (_, _, grows) in enumerate(rows) if grows], np.int64)
    plan = make_plan([queries for queries, _, _ in rows], kv_lens)
    columns = (np.array(kv_lens)[grown] - 1) // PAGE
    new_pages = NewPages(plan.slots[grown], columns, np.arange(len(grown), dtype=np.int32) + 90)
    plan = replace(plan, new_pages=new_pages)
    tokens = plan.num_tokens + padding * 5
    inputs = buffer.fill(plan, StepShape(len(rows) + padding, tokens, 24, 24, 10))
    wanted = copied(inputs.tensors)
    for value in vars(inputs.tensors).values():
        if torch.is_tensor(value):
            value.fill_(-5)
    buffer.lay_out_in_one_kernel(inputs.tensors)
    actual = copied(inputs.tensors)
    for name in wanted:
        assert torch.equal(actual[name], wanted[name]), name
    assert torch.equal(tables.on_device, torch.from_numpy(tables.host))
