"""Hidden states that travel among a replica's ranks: from the leader, or all to all."""

import numpy as np
import torch

from antiphon.decoder.rank_commands import AdoptStates, CollectStates, PutStates
from antiphon.decoder.runner import DecoderRunner
from antiphon.kv.batch_share import OwnShare
from antiphon.kv.handoff import HiddenStates
from antiphon.runtime.ranks import RankError


@torch.inference_mode()
def broadcast_states(states: HiddenStates, runner: DecoderRunner) -> None:
    """On the leader, whose arena has `states`: so the current stream waits for them.
    The others were told by `PutStates`."""
    packed = states.packed.to(runner.device, runner.arena.states.dtype)
    runner.ranks.broadcast(packed.contiguous(), runner.ranks.leader)


@torch.inference_mode()
def receive_states(command: PutStates, runner: DecoderRunner) -> None:
    """On every other rank: puts them into its arena."""
    packed = runner.arena.states.new_empty(sum(command.lengths), runner.arena.states.shape[1])
    runner.ranks.broadcast(packed, runner.ranks.leader)
    runner.arena.put(HiddenStates(command.keys, command.lengths, packed), command.rows)


@torch.inference_mode()
def collect_states(
    command: CollectStates, own: OwnShare, runner: DecoderRunner
) -> torch.Tensor | None:
    """On every rank of a colocated replica: puts the wanted states of all ranks' shares
    into its arena. `own`: this rank's. Returns the whole batch [sum of lengths,
    hidden], unless nobody has a use for it."""
    if not command.wanted and not command.whole:
        return None
    ranks, arena = runner.ranks, runner.arena
    packed = arena.states.new_empty(sum(command.lengths), arena.states.shape[1])
    for number, part in enumerate(packed.split(list(command.tokens))):
        source = (ranks.leader + number) % ranks.parallel.num_ranks  # as `Ranks.beside` counts
        if source == ranks.rank:
            _copy_own(own, part)
        if len(part):
            ranks.broadcast(part, source)
    states = HiddenStates(command.keys, command.lengths, packed)
    if command.wanted:
        arena.put(states.only(set(command.wanted).__contains__), command.rows)
    return packed


def _copy_own(own: OwnShare, part: torch.Tensor) -> None:
    """Behind its computation. Raises RankError for a share of another size."""
    if own.packed.shape != part.shape:
        raise RankError(
            f"the share of batch {own.batch} here is {list(own.packed.shape)}, where the leader "
            f"counts {list(part.shape)}"
        )
    if own.ready is not None:
        torch.cuda.current_stream(part.device).wait_event(own.ready)
        own.packed.record_stream(torch.cuda.current_stream(part.device))  # of another stream
    part.copy_(own.packed)


def adopt_states(command: AdoptStates, runner: DecoderRunner) -> None:
    """On every other rank: an encoder has put them into its arena."""
    rows = np.split(command.rows, np.cumsum(command.lengths)[:-1])
    runner.arena.adopt(command.keys, rows)
