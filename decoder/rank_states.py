"""Hidden states on their way from the leader of a replica to its other ranks."""

import torch

from antiphon.decoder.rank_commands import Followers, PutStates
from antiphon.decoder.runner import DecoderRunner
from antiphon.kv.handoff import HiddenStates


@torch.inference_mode()
def share_states(states: HiddenStates, runner: DecoderRunner, followers: Followers) -> None:
    """On the leader, whose arena has `states`: so the current stream waits for them."""
    packed = states.packed.to(runner.device, runner.arena.states.dtype).contiguous()
    followers(PutStates(states.keys, states.lengths))
    runner.ranks.broadcast(packed)


@torch.inference_mode()
def receive_states(command: PutStates, runner: DecoderRunner) -> None:
    """On every other rank: puts them into its arena."""
    packed = runner.arena.states.new_empty(sum(command.lengths), runner.arena.states.shape[1])
    runner.ranks.broadcast(packed)
    runner.arena.put(HiddenStates(command.keys, command.lengths, packed))
