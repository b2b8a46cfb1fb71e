"""CUDA graphs of decoder steps: one for each shape that steps are padded to.

A step of decodes alone has one token for each sequence. A mixed step has room for
prompts, so running sequences keep using CUDA graphs while others are admitted. Most
prompts are short (Whisper's has four tokens). Prompts with earlier text are long, and
have graphs of their own, for fewer batch sizes.
"""

from collections.abc import Callable, Collection
from enum import StrEnum
from functools import lru_cache, partial

import msgspec
import numpy as np
from torch import nn

from antiphon.decoder.step_attention import PlannedAttentions
from antiphon.decoder.step_inputs import InputBuffer
from antiphon.decoder.step_tensors import StepInputs, StepShape
from antiphon.runtime.graphs import GraphSet, Work
from antiphon.runtime.ranks import Ranks
from antiphon.scheduler.plan import StepPlan

# Room of a mixed step beyond one token for each sequence, and its longest query.
PROMPT_TOKENS, MAX_QUERY_LEN = 64, 8
# Both, in a step with a long prompt. What is longer still runs without a graph.
LONG_PROMPT_TOKENS = 256
LONG_EVERY = 4  # one of so many batch sizes has a graph for long prompts
LEAST_READOUTS = 4  # that a graph for prompts has room for
CHOICES_KEPT = 4096  # sizes of steps, whose graph is looked for once

Forward = Callable[[StepInputs, PlannedAttentions], None]


def batch_sizes(max_seqs: int) -> list[int]:
    """1, 2, 4, 8, then sizes that waste a fifth at most, up to `max_seqs`."""
    sizes = [1, 2, 4, 8]
    while sizes[-1] < max_seqs:
        sizes.append(sizes[-1] + max(8, sizes[-1] // 4 // 8 * 8))
    return [size for size in sizes if size < max_seqs] + [max_seqs]


def step_shapes(
    max_seqs: int,
    max_kv_len: int,
    max_cross_len: int,
    most_readouts: int = 0,
    states: bool = False,
) -> list[StepShape]:
    """All shapes with a graph, largest first: its memory serves the other graphs.

    `most_readouts`: in a step with prompts, which then always computes the logits of so
    many further tokens; 0 for models whose requests ask for none. `states`: hidden states
    may stand in prompts.
    """
    shapes = []
    for i, size in enumerate(reversed(batch_sizes(max_seqs))):
        rooms = [(PROMPT_TOKENS, MAX_QUERY_LEN), (0, 1)]
        if i % LONG_EVERY == 0:
            rooms.insert(0, (LONG_PROMPT_TOKENS, LONG_PROMPT_TOKENS))
        for room, query_len in rooms:
            longest = min(query_len, max_kv_len)
            tokens = min(size + room, size * longest)
            readouts = min(max(size, LEAST_READOUTS), most_readouts) if room else 0
            lengths = (longest, max_kv_len, max_cross_len)
            may_stand = states and room > 0
            shapes.append(StepShape(size, tokens, *lengths, readouts, states=may_stand))
    return shapes


def short_step_shapes(max_seqs: int, max_kv_len: int, max_cross_len: int) -> list[StepShape]:
    """Those without room for long prompts."""
    shapes = step_shapes(max_seqs, max_kv_len, max_cross_len)
    return [shape for shape in shapes if shape.max_query_len <= MAX_QUERY_LEN]


def draft_shapes(
    max_seqs: int, max_kv_len: int, max_cross_len: int, num_drafts: int
) -> list[StepShape]:
    """Those of steps that verify up to `num_drafts` of each sequence, largest first."""
    per_row = num_drafts + 1
    return [
        StepShape(size, size * per_row, per_row, max_kv_len, max_cross_len, 0, num_drafts)
        for size in reversed(batch_sizes(max_seqs))
    ]


class EagerReason(StrEnum):
    """Why a step is launched kernel by kernel."""

    NO_GRAPHS = "no_graphs"  # a CPU, `enforce_eager`, or an attention backend without graphs
    EMBEDDINGS = "embeddings"  # hidden states stand in place of tokens of a step with drafts
    LONG_PROMPT = "long_prompt"  # longer than LONG_PROMPT_TOKENS
    MANY_PROMPT_TOKENS = "many_prompt_tokens"  # no graph has room for all prompts of the step
    READOUTS = "readouts"  # more than graphs have room for

    @property
    def counter(self) -> str:
        """Its name among a decoder's counters."""
        return f"eager_steps_{self.value}"


class GraphChoice(msgspec.Struct, frozen=True):
    """The shape of the graph that runs a step, or why none does."""

    shape: StepShape | None
    reason: EagerReason | None = None


class StepShapes:
    """Shapes that have a graph. Keeps its choices: most steps are like earlier ones."""

    def __init__(self, shapes: Collection[StepShape] = ()) -> None:
        self._smallest_first = sorted(shapes, key=lambda shape: (shape.tokens, shape.sequences))
        self._choose = lru_cache(CHOICES_KEPT)(self._choice)

    def choose(self, plan: StepPlan) -> GraphChoice:
        """The smallest shape that holds `plan` and its padding, which has one token for
        each sequence that the step lacks."""
        longest = int(plan.query_lens.max())
        drafts = 0 if plan.drafts is None else plan.drafts.most
        sizes = (len(plan.slots), plan.num_tokens, longest, len(plan.readouts), drafts)
        return self._choose(*sizes, bool(plan.embeddings))

    def _choice(
        self,
        sequences: int,
        tokens: int,
        longest: int,
        readouts: int,
        drafts: int,
        states: bool,
    ) -> GraphChoice:
        shapes = self._smallest_first
        if not shapes:
            return GraphChoice(None, EagerReason.NO_GRAPHS)
        for shape in shapes:
            if (
                shape.sequences >= sequences
                and shape.tokens - tokens >= shape.sequences - sequences
                and shape.max_query_len >= longest
                and shape.readouts >= readouts
                and (shape.drafts >= drafts if drafts else not shape.drafts)
                and (shape.states or not states)
            ):
                return GraphChoice(shape)
        if readouts > max(shape.readouts for shape in shapes):
            return GraphChoice(None, EagerReason.READOUTS)
        if states and self._choose(sequences, tokens, longest, readouts, drafts, False).shape:
            return GraphChoice(None, EagerReason.EMBEDDINGS)
        is_long = longest > max(shape.max_query_len for shape in shapes)
        return GraphChoice(
            None, EagerReason.LONG_PROMPT if is_long else EagerReason.MANY_PROMPT_TOKENS
        )


NO_SHAPES = StepShapes()


class DecoderGraphs:
    """Captured steps. `plan` makes the attentions' metadata for a step's inputs,
    `replan` renews it, and `forward` is captured."""

    def __init__(
        self,
        forward: Forward,
        plan: Callable[[StepInputs], PlannedAttentions],
        replan: Callable[[PlannedAttentions, StepInputs], None],
        buffer: InputBuffer,
        shapes: list[StepShape],
        model: nn.Module,
        ranks: Ranks,
    ) -> None:
        self._replan = replan

        def prepare(shape: StepShape) -> tuple[PlannedAttentions, Work]:
            inputs = buffer.fill(_full_step(shape, buffer), shape)
            attentions = plan(inputs)
            return attentions, partial(forward, inputs, attentions)

        self._graphs = GraphSet("decoder", buffer.device, model, shapes, prepare, ranks)
        self.shapes, self.report = StepShapes(self._graphs.shapes), self._graphs.report

    def replay(self, inputs: StepInputs) -> None:
        """Runs the graph of `inputs.shape`, whose inputs `InputBuffer` has put in
        place."""
        self._replan(self._graphs.metadata(inputs.shape), inputs)
        self._graphs.replay(inputs.shape)


def _full_step(shape: StepShape, buffer: InputBuffer) -> StepPlan:
    """A step of scratch sequences that fills `shape`. (Some backends size their buffers
    by the first step that they plan.)"""
    extra = shape.tokens - shape.sequences - np.arange(shape.sequences) * (shape.max_query_len - 1)
    query_lens = 1 + np.clip(extra, 0, shape.max_query_len - 1)
    slots = np.full(shape.sequences, buffer.limits.scratch_slot)
    return StepPlan([], [], slots, slots, query_lens, query_lens, np.zeros(len(slots), bool))
