"""Hidden states on their way from the leader of a replica to its other ranks."""

import numpy as np
import torch

from antiphon.decoder.rank_commands import AdoptStates, PutStates
from antiphon.decoder.runner import DecoderRunner
from antiphon.kv.handoff import HiddenStates


@torch.inference_mode()
def broadcast_states(states: HiddenStates, runner: DecoderRunner) -> None:
    """On the leader, whose arena has `states`: so the current stream waits for them. The others
    were told by `PutStates`."""
    packed = states.packed.to(runner.device, runner.arena.states.dtype)
    runner.ranks.broadcast(packed.contiguous())


@torch.inference_mode()
def receive_states(command: PutStates, runner: DecoderRunner) -> None:
    """On every other rank: puts them into its arena."""
    packed = runner.arena.states.new_empty(sum(command.lengths), runner.arena.states.shape[1])
    runner.ranks.broadcast(packed)
    runner.arena.put(HiddenStates(command.keys, command.lengths, packed), command.rows)


def adopt_states(command: AdoptStates, runner: DecoderRunner) -> None:
    """On every other rank: an encoder has put them into its arena."""
    rows = np.split(command.rows, np.cumsum(command.lengths)[:-1])
    runner.arena.adopt(command.keys, rows)
