"""The tables and buffers of a decoder's steps, in the sizes that its options ask for."""

from antiphon.config.options import EngineConfig
from antiphon.decoder.graphs import LONG_PROMPT_TOKENS
from antiphon.decoder.page_tables import PageTables
from antiphon.decoder.state import Slots
from antiphon.decoder.step_inputs import InputBuffer, InputLimits
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
    )


def make_inputs(
    config: EngineConfig, slots: Slots, pool: KVPool, tables: PageTables, num_lanes: int
) -> InputBuffer:
    options = config.scheduler
    largest_graph = options.max_num_seqs + LONG_PROMPT_TOKENS
    limits = InputLimits(
        sequences=options.max_num_seqs,
        tokens=max(options.max_num_batched_tokens, largest_graph),
        page_size=pool.page_size,
        scratch_slot=slots.scratch,
        scratch_page=pool.scratch_page,
    )
    # With the one that is being launched.
    in_flight = num_lanes * options.num_scheduler_steps + 1
    return InputBuffer(limits, tables, slots.tokens, in_flight + 1)
