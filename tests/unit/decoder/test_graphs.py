"""The shapes that graphs are captured for, and their choice. Captured they are on a GPU only: see
tests/gpu."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from antiphon.decoder.graphs import (
    LONG_PROMPT_TOKENS,
    MAX_QUERY_LEN,
    PROMPT_TOKENS,
    EagerReason,
    GraphChoice,
    StepShapes,
    batch_sizes,
    draft_shapes,
    step_shapes,
)
from antiphon.decoder.step_tensors import StepShape
from antiphon.scheduler.plan import Embedding, PlannedDrafts, StepPlan
from antiphon.scheduler.planning import StepBudget


def make_plan(query_lens: list[int], kv_lens: list[int]) -> StepPlan:
    count = len(query_lens)
    lens = (np.array(lens) for lens in (query_lens, kv_lens))
    return StepPlan([], [], np.arange(count), np.arange(count), *lens, np.ones(count, bool))


def test_batch_sizes_waste_little_and_end_at_the_most() -> None:
    assert batch_sizes(64) == [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64]
    assert batch_sizes(5) == [1, 2, 4, 5]
    assert batch_sizes(256)[-3:] == [176, 216, 256]
    assert len(batch_sizes(512)) == 22


@given(st.lists(st.integers(1, 12), min_size=1, max_size=20))
def test_the_shape_chosen_holds_the_step(query_lens: list[int]) -> None:
    available = StepShapes(step_shapes(16, 24, 16))
    plan = make_plan(query_lens, query_lens)
    choice = available.choose(plan)
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
    available = StepShapes(step_shapes(64, 448, 1500))

    def chosen(*query_lens: int) -> tuple[int, int] | None:
        plan = make_plan(list(query_lens), list(query_lens))
        shape = available.choose(plan).shape
        return None if shape is None else (shape.sequences, shape.tokens)

    assert chosen(1, MAX_QUERY_LEN) == (2, 2 * MAX_QUERY_LEN)
    assert chosen(*[1] * 30, 4, 4) == (32, 32 + PROMPT_TOKENS)
    assert chosen(*[1] * 30, 4, 200) == (32, 32 + LONG_PROMPT_TOKENS)
    assert chosen(*[4] * 40) == (64, 64 + LONG_PROMPT_TOKENS)
    assert chosen(1, LONG_PROMPT_TOKENS + 1) is None


def test_the_reason_for_running_outside_graphs_is_given() -> None:
    available = StepShapes(step_shapes(64, 448, 1500))
    decodes = make_plan([1] * 4, [9] * 4)
    long = make_plan([1, LONG_PROMPT_TOKENS + 1], [9, 300])
    many = make_plan([100] * 4, [100] * 4)

    assert available.choose(decodes) == GraphChoice(StepShape(4, 4, 1, 448, 1500))
    for plan, shapes, reason in (
        (long, available, EagerReason.LONG_PROMPT),
        (many, available, EagerReason.MANY_PROMPT_TOKENS),
        (decodes, StepShapes(), EagerReason.NO_GRAPHS),
    ):
        assert shapes.choose(plan) == GraphChoice(None, reason)


def test_hidden_states_stand_in_graphs_with_room_for_prompts() -> None:
    """Also in place of the one token that a step computes of a prompt."""
    shapes = step_shapes(8, 448, 1500, states=True)
    states = [Embedding("a", 0, 0, 1)]
    for query_lens in ([1], [1, 1, 3], [1, 200]):
        plan = make_plan(query_lens, query_lens)
        shape = StepShapes(shapes).choose(replace(plan, embeddings=states)).shape
        assert shape is not None
        assert shape.states
        assert shape.tokens > shape.sequences
    decodes = make_plan([1, 1], [9, 9])
    shape = StepShapes(shapes).choose(decodes).shape
    assert shape is not None
    assert not shape.states
    drafting = StepShapes([*shapes, *draft_shapes(8, 448, 1500, 3)])
    drafts = PlannedDrafts(np.array([3, 0]), 3, None, np.ones(2, int))
    plan = replace(make_plan([4, 1], [9, 9]), drafts=drafts)
    assert drafting.choose(plan).shape is not None
    choice = drafting.choose(replace(plan, embeddings=states))
    assert choice == GraphChoice(None, EagerReason.EMBEDDINGS)


@given(
    st.lists(st.integers(1, 447), min_size=1, max_size=16),
    st.integers(0, 16),
    st.integers(1, 4096),
)
def test_steps_within_the_budget_of_graphs_have_a_graph(
    prompts: list[int], num_decodes: int, max_batched_tokens: int
) -> None:
    """No prompt is too long, and no step has too many of them."""
    budget = StepBudget(max_batched_tokens, LONG_PROMPT_TOKENS - 1)
    chunks = budget.chunks(np.array(prompts)).tolist()
    query_lens = [1] * num_decodes + [chunk for chunk in chunks if chunk]
    if not query_lens:
        return
    for max_kv_len in (448, 100):
        capped = [min(length, max_kv_len) for length in query_lens]
        shapes = StepShapes(step_shapes(32, max_kv_len, 1500))
        assert shapes.choose(make_plan(capped, capped)).shape is not None
