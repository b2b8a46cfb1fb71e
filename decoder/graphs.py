"""CUDA graphs of decoder steps, one for each shape that steps are padded to.

A step of only decodes has as many tokens as sequences; a mixed step has room for the prompts of new sequences, so that admitting a clip
does not throw the running ones out of graphs. Most prompts are short (Whisper's has four tokens); those that carry earlier text are
not, and have graphs of their own, for fewer batch sizes.
"""

import logging
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from torch import nn

from antiphon.attention.interface import PlannedAttention
from antiphon.decoder.step_inputs import InputBuffer, StepInputs, StepShape
from antiphon.runtime.graphs import GraphCapture, Work
from antiphon.scheduler.plan import StepPlan

logger = logging.getLogger(__name__)

PROMPT_TOKENS, MAX_QUERY_LEN = (
    64,
    8,
)  # room in a mixed step beyond one token for each sequence, and for each sequence
LONG_PROMPT_TOKENS = (
    256  # likewise, both, in a step with a long prompt; what is longer still runs without a graph
)
LONG_EVERY = 4  # batch sizes, one has a graph for long prompts

Plans = tuple[PlannedAttention[object], PlannedAttention[object]]  # causal and cross
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
    for i, size in enumerate(reversed(batch_sizes(max_seqs))):
        rooms = [(PROMPT_TOKENS, MAX_QUERY_LEN), (0, 1)]
        if i % LONG_EVERY == 0:
            rooms.insert(0, (LONG_PROMPT_TOKENS, LONG_PROMPT_TOKENS))
        for room, query_len in rooms:
            longest = min(query_len, max_kv_len)
            found.append(
                StepShape(
                    size, min(size + room, size * longest), longest, max_kv_len, max_cross_len
                )
            )
    return found


def fitting(plan: StepPlan, available: Iterable[StepShape]) -> StepShape | None:
    """The smallest of `available` that holds `plan` with its padding: one token for each sequence that is not there."""
    sequences, tokens, longest = len(plan.slots), plan.num_tokens, int(plan.query_lens.max())
    fits = (
        shape
        for shape in available
        if shape.sequences >= sequences
        and shape.tokens - tokens >= shape.sequences - sequences
        and shape.max_query_len >= longest
    )
    return min(fits, key=lambda shape: (shape.tokens, shape.sequences), default=None)


class DecoderGraphs:
    """`plan` makes the attention's plans for a step's inputs, `replan` renews them, `forward` is what is captured."""

    def __init__(
        self,
        forward: Forward,
        plan: Callable[[StepInputs], Plans],
        replan: Callable[[Plans, StepInputs], None],
        buffer: InputBuffer,
        available: list[StepShape],
        model: nn.Module,
    ) -> None:
        self._replan = replan

        def step(shape: StepShape) -> tuple[Plans, Work]:
            inputs = buffer.fill(_dummy(shape, buffer), shape)
            plans = plan(inputs)
            return plans, partial(forward, inputs, plans)

        capture = GraphCapture(buffer.device, model)
        self._captured = capture.each(available, step)
        self.report = capture.report
        logger.info("decoder: %s", self.report)

    def fitting(self, plan: StepPlan) -> StepShape | None:
        return fitting(plan, self._captured)

    def replay(self, inputs: StepInputs) -> None:
        captured = self._captured[inputs.shape]
        self._replan(captured.metadata, inputs)
        captured.graph.replay()


class CrossWriteGraphs:
    """Graphs that write cross KV of so many encoder tokens: else a step that takes in new clips spends longer on launching the
    projections of every layer than the device on computing them."""

    def __init__(
        self,
        write: Callable[[torch.Tensor, torch.Tensor], None],
        hidden: torch.Tensor,
        sizes: list[int],
        scratch: int,
        model: nn.Module,
    ) -> None:
        """`write` takes states [tokens, hidden] and slots [tokens]; `hidden` is what the graphs read, as long as the largest size;
        `scratch` is the slot that padding goes to."""
        self._hidden = hidden
        self._slots = torch.full((len(hidden),), scratch, dtype=torch.int32, device=hidden.device)
        self._scratch = scratch
        capture = GraphCapture(hidden.device, model)
        self._captured = capture.each(
            sorted(sizes, reverse=True),
            lambda size: (None, partial(write, hidden[:size], self._slots[:size])),
        )
        self.report = capture.report
        logger.info("cross KV: %s", self.report)

    def replay(self, hidden: torch.Tensor, slots: torch.Tensor) -> None:
        """`hidden` [tokens, hidden], `slots` [tokens] int32; in as many pieces as the largest graph makes of them."""
        largest = len(self._hidden)
        for piece, places in zip(hidden.split(largest), slots.split(largest), strict=True):
            self._replay(piece, places)

    def _replay(self, hidden: torch.Tensor, slots: torch.Tensor) -> None:
        tokens = len(hidden)
        size = min(size for size in self._captured if size >= tokens)
        self._hidden[:tokens].copy_(hidden)
        self._slots[:tokens].copy_(slots)
        self._slots[tokens:size].fill_(self._scratch)
        self._captured[size].graph.replay()


def cross_write_sizes(max_cross_len: int, fixed: bool) -> list[int]:
    """Whole windows where all inputs are equally long (audio), else a few sizes that waste a third at most."""
    if fixed:
        return [count * max_cross_len for count in (1, 2, 3, 4, 6, 8)]
    return [128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096]


def _dummy(shape: StepShape, buffer: InputBuffer) -> StepPlan:
    """A full step of scratch sequences: some backends size what they keep by the first plan they see."""
    extra = shape.tokens - shape.sequences - np.arange(shape.sequences) * (shape.max_query_len - 1)
    query_lens = 1 + np.clip(extra, 0, shape.max_query_len - 1)
    slots = np.full(shape.sequences, buffer.scratch_slot)
    table = np.full((shape.sequences, 1), buffer.scratch_page)
    return StepPlan([], [], slots, slots, query_lens, query_lens, table, table, np.ones_like(slots))
