"""What graphs read, and the shapes that they are captured for. Captured they are on a GPU only:
see test_gpu.py."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from antiphon.decoder.graphs import (
    LONG_PROMPT_TOKENS,
    MAX_QUERY_LEN,
    PROMPT_TOKENS,
    EagerReason,
    GraphChoice,
    batch_sizes,
    choose_graph,
    step_shapes,
)
from antiphon.decoder.step_inputs import InputBuffer, InputLimits, StepShape
from antiphon.scheduler.plan import StepPlan

PAGE, SCRATCH_SLOT, SCRATCH_PAGE = 4, 16, 99


def make_plan(query_lens: list[int], kv_lens: list[int], cross_lens: list[int]) -> StepPlan:
    count = len(query_lens)
    table = np.arange(count * 6, dtype=np.int32).reshape(count, 6)
    arrays = (np.array(lens) for lens in (query_lens, kv_lens))
    return StepPlan(
        [],
        [],
        np.arange(count)[::-1].copy(),
        np.arange(count),
        *arrays,
        np.ones(count, bool),
        table[:, :5],
        table[:, :3],
        np.array(cross_lens),
    )


def make_buffer() -> InputBuffer:
    limits = InputLimits(
        sequences=16, tokens=64, self_pages=6, cross_pages=4, page_size=PAGE,
        scratch_slot=SCRATCH_SLOT, scratch_page=SCRATCH_PAGE,
    )  # fmt: skip
    return InputBuffer(limits, torch.device("cpu"))


def test_a_mixed_step_with_padding() -> None:
    plan = make_plan([1, 3], [9, 3], [10, 7])
    inputs = make_buffer().fill(plan, StepShape(4, 12, 8, 24, 16))
    assert inputs.slots.tolist() == [1, 0, SCRATCH_SLOT, SCRATCH_SLOT]
    assert inputs.lengths.tolist() == [9, 3, 1, 1]
    assert inputs.last_tokens.tolist() == [0, 3, 4, 5]
    assert inputs.positions.tolist() == [8, 0, 1, 2] + [0] * 8
    assert inputs.token_slots.tolist() == [1, 0, 0, 0] + [SCRATCH_SLOT] * 8
    scratch = SCRATCH_PAGE * PAGE
    assert (
        inputs.slot_mapping.tolist()
        == [2 * PAGE, 6 * PAGE, 6 * PAGE + 1, 6 * PAGE + 2] + [scratch] * 8
    )
    assert inputs.causal.cu_seqlens_q.tolist() == [0, 1, 4, 5, 6]
    assert inputs.causal.page_table_on_device[:, :5].tolist() == [
        [0, 1, 2, 3, 4],
        [6, 7, 8, 9, 10],
        [SCRATCH_PAGE] * 5,
        [SCRATCH_PAGE] * 5,
    ]
    assert inputs.cross.kv_lens_on_device.tolist() == [10, 7, 1, 1]
    assert inputs.cross.page_table_on_device.shape == (4, 4)


def test_one_shape_always_lies_at_the_same_place() -> None:
    """A captured graph reads where the first step of its shape was."""
    buffer, shape = make_buffer(), StepShape(4, 4, 1, 24, 16)
    first = buffer.fill(make_plan([1, 1], [9, 3], [10, 7]), shape)
    buffer.fill(make_plan([1, 3, 1], [9, 3, 1], [1, 1, 1]), StepShape(8, 20, 8, 24, 16))
    again = buffer.fill(make_plan([1, 1, 1], [4, 5, 6], [10, 7, 2]), shape)
    for name in ("slots", "positions", "slot_mapping", "lengths", "last_tokens"):
        assert getattr(first, name).data_ptr() == getattr(again, name).data_ptr()
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
    buffer._device = buffer._hosts[0].clone()  # as on a GPU: the copy is another one
    buffer._hosts = [buffer._hosts[0].clone() for _ in range(2)]
    buffer._copied = [Copy(log, name) for name in "ab"]
    shape, plan = StepShape(4, 4, 1, 24, 16), make_plan([1, 1], [9, 3], [10, 7])
    for _ in range(3):
        buffer.fill(plan, shape)
    assert log == ["b queued", "a queued", "b awaited", "b queued"]
    assert buffer.waits == 1
    buffer._copied[0].over = True
    buffer.fill(plan, shape)
    assert log[4:] == ["a queued"]
    assert buffer.waits == 1


def test_batch_sizes_waste_little_and_end_at_the_most() -> None:
    assert batch_sizes(64) == [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64]
    assert batch_sizes(5) == [1, 2, 4, 5]
    assert batch_sizes(256)[-3:] == [176, 216, 256]
    assert len(batch_sizes(512)) == 22


@given(st.lists(st.integers(1, 12), min_size=1, max_size=20))
def test_the_shape_chosen_holds_the_step(query_lens: list[int]) -> None:
    available = step_shapes(16, 24, 16)
    plan = make_plan(query_lens, query_lens, [1] * len(query_lens))
    choice = choose_graph(plan, available)
    shape = choice.shape
    if shape is None:
        assert len(query_lens) > 16
        assert choice.reason is EagerReason.MANY_PROMPT_TOKENS
    else:
        padding = shape.sequences - len(query_lens)
        assert padding >= 0
        assert sum(query_lens) + padding <= shape.tokens
        assert max(query_lens) <= shape.max_query_len
        if max(query_lens) == 1:
            assert shape.tokens == shape.sequences


def test_long_prompts_have_graphs_and_short_ones_do_not_pay_for_them() -> None:
    available = step_shapes(64, 448, 1500)

    def chosen(*query_lens: int) -> tuple[int, int] | None:
        plan = make_plan(list(query_lens), list(query_lens), [1] * len(query_lens))
        shape = choose_graph(plan, available).shape
        return None if shape is None else (shape.sequences, shape.tokens)

    assert chosen(1, MAX_QUERY_LEN) == (2, 2 * MAX_QUERY_LEN)
    assert chosen(*[1] * 30, 4, 4) == (32, 32 + PROMPT_TOKENS)
    assert chosen(*[1] * 30, 4, 200) == (32, 32 + LONG_PROMPT_TOKENS)
    assert chosen(*[4] * 40) == (64, 64 + LONG_PROMPT_TOKENS)
    assert chosen(1, LONG_PROMPT_TOKENS + 1) is None


def test_the_reason_for_running_outside_graphs_is_given() -> None:
    available = step_shapes(64, 448, 1500)
    decodes = make_plan([1] * 4, [9] * 4, [1] * 4)
    long = make_plan([1, LONG_PROMPT_TOKENS + 1], [9, 300], [1, 1])
    many = make_plan([100] * 4, [100] * 4, [1] * 4)

    assert choose_graph(decodes, available) == GraphChoice(StepShape(4, 4, 1, 448, 1500))
    for plan, shapes, reason in (
        (long, available, EagerReason.LONG_PROMPT),
        (many, available, EagerReason.MANY_PROMPT_TOKENS),
        (decodes, (), EagerReason.NO_GRAPHS),
    ):
        assert choose_graph(plan, shapes) == GraphChoice(None, reason)
