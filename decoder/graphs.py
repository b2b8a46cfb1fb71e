"""CUDA graphs of decoder steps, one for each shape that steps are padded to.

A step of only decodes has as many tokens as sequences; a mixed step has PROMPT_TOKENS more, for the prompts of new sequences,
so that admitting a clip does not throw the running ones out of graphs.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from antiphon.decoder.inputs import InputBuffer, StepInputs, StepShape
from antiphon.layers.graphs import GraphCapture
from antiphon.scheduler.plan import StepPlan

logger = logging.getLogger(__name__)

PROMPT_TOKENS = 32  # room in a mixed step beyond one token for each sequence
MAX_QUERY_LEN = 8  # of one sequence in a mixed step; longer prompts run without a graph

Plans = tuple[object, object]  # of causal and cross attention
Forward = Callable[[StepInputs, Plans], None]


def batch_sizes(max_seqs: int) -> list[int]:
    """1, 2, 4, 8, then steps that waste a fifth at most, up to `max_seqs`."""
    sizes = [1, 2, 4, 8]
    while sizes[-1] < max_seqs:
        sizes.append(sizes[-1] + max(8, sizes[-1] // 4 // 8 * 8))
    return [size for size in sizes if size < max_seqs] + [max_seqs]


def shapes(max_seqs: int, max_kv_len: int, max_cross_len: int) -> list[StepShape]:
    """Largest first: the memory that the first graph takes serves the others."""
    found = []
    for size in reversed(batch_sizes(max_seqs)):
        tokens = min(size + PROMPT_TOKENS, size * MAX_QUERY_LEN)
        found.append(StepShape(size, tokens, min(MAX_QUERY_LEN, max_kv_len), max_kv_len, max_cross_len))
        found.append(StepShape(size, size, 1, max_kv_len, max_cross_len))
    return found


def fitting(plan: StepPlan, available: list[StepShape]) -> StepShape | None:
    """The smallest of `available` that holds `plan` with its padding: one token for each sequence that is not there."""
    sequences, tokens, longest = len(plan.slots), plan.num_tokens, int(plan.query_lens.max())
    fits = (
        shape
        for shape in available
        if shape.sequences >= sequences and shape.tokens - tokens >= shape.sequences - sequences and shape.max_query_len >= longest
    )
    return min(fits, key=lambda shape: (shape.tokens, shape.sequences), default=None)


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    plans: Plans


class DecoderGraphs:
    """`plan` makes the attention's plans for a step's inputs, `replan` renews them, `forward` is what is captured."""

    def __init__(
        self,
        forward: Forward,
        plan: Callable[[StepInputs], Plans],
        replan: Callable[[Plans, StepInputs], None],
        buffer: InputBuffer,
        available: list[StepShape],
    ) -> None:
        self._replan = replan
        self._captured: dict[StepShape, _Captured] = {}
        capture = GraphCapture(buffer.device)
        for shape in available:
            inputs = buffer.fill(_dummy(shape, buffer), shape)
            plans = plan(inputs)
            self._captured[shape] = _Captured(capture(lambda i=inputs, p=plans: forward(i, p)), plans)  # type: ignore[misc]
        self.report = capture.report
        logger.info("decoder: %s", self.report)

    def fitting(self, plan: StepPlan) -> StepShape | None:
        return fitting(plan, list(self._captured))

    def replay(self, inputs: StepInputs) -> None:
        captured = self._captured[inputs.shape]
        self._replan(captured.plans, inputs)
        captured.graph.replay()


def _dummy(shape: StepShape, buffer: InputBuffer) -> StepPlan:
    """A full step of scratch sequences: some backends size what they keep by the first plan they see."""
    extra = shape.tokens - shape.sequences - np.arange(shape.sequences) * (shape.max_query_len - 1)
    query_lens = 1 + np.clip(extra, 0, shape.max_query_len - 1)
    slots = np.full(shape.sequences, buffer.scratch_slot)
    table = np.full((shape.sequences, 1), buffer.scratch_page)
    return StepPlan([], [], slots, slots, query_lens, query_lens, table, table, np.ones_like(slots))
