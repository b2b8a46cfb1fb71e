"""The tables and buffers of a decoder's steps, sized by its options."""

from antiphon.config.options import EngineConfig
from antiphon.decoder.graphs import LONG_PROMPT_TOKENS, PROMPT_TOKENS
from antiphon.decoder.page_tables import PageTables
from antiphon.decoder.state import Slots
from antiphon.decoder.step_inputs import InputBuffer, InputLimits
from antiphon.decoder.step_outputs import OutputSizes
from antiphon.families.checkpoint import ModelConfig
from antiphon.kv.pages import pages_for
from antiphon.kv.pool import KVPool


def make_tables(model: ModelConfig, slots: Slots, pool: KVPool) -> PageTables:
    return PageTables(
        slots.scratch + 1,
        pages_for(model.max_decoder_len, pool.page_size),
        pages_for(model.max_cross_len, pool.page_size),
        pool.scratch_page,
        slots.device,
        keeps_sees=model.decoder.most_attended > 1,
        cross_scratch_page=pool.cross_scratch_page,
    )


def max_step_tokens(config: EngineConfig) -> int:
    options, drafts = config.scheduler, config.speculation.num_speculative_tokens
    largest_graph = options.max_num_seqs + LONG_PROMPT_TOKENS
    of_drafts = most_drafting(config) * (drafts + 1)
    return max(options.max_num_batched_tokens, largest_graph, of_drafts)


def make_draft_inputs(
    config: EngineConfig, slots: Slots, pool: KVPool, tables: PageTables
) -> InputBuffer:
    """Of the passes of a draft model."""
    options, speculation = config.scheduler, config.speculation
    sequences = most_drafting(config)
    limits = InputLimits(
        sequences=sequences,
        tokens=max(options.max_num_batched_tokens, sequences + PROMPT_TOKENS),
        page_size=pool.page_size,
        scratch_slot=slots.scratch,
        scratch_page=pool.scratch_page,
    )
    return InputBuffer(limits, tables, slots.tokens, speculation.num_speculative_tokens + 1)


def most_drafting(config: EngineConfig) -> int:
    """Sequences of a step with drafts, at most."""
    options, speculation = config.scheduler, config.speculation
    if not speculation.drafts:
        return 0
    return min(options.max_num_seqs, speculation.speculative_disable_by_batch_size)


def output_sizes(config: EngineConfig) -> OutputSizes:
    rows, drafts = config.scheduler.max_num_seqs, config.speculation.num_speculative_tokens
    return OutputSizes(rows, max_step_tokens(config), most_drafting(config), drafts)


def make_inputs(
    config: EngineConfig, slots: Slots, pool: KVPool, tables: PageTables, num_lanes: int
) -> InputBuffer:
    options = config.scheduler
    limits = InputLimits(
        sequences=options.max_num_seqs,
        tokens=max_step_tokens(config),
        page_size=pool.page_size,
        scratch_slot=slots.scratch,
        scratch_page=pool.scratch_page,
    )
    # With the one that is being launched.
    in_flight = num_lanes * options.num_scheduler_steps + 1
    return InputBuffer(limits, tables, slots.tokens, in_flight + 1)
