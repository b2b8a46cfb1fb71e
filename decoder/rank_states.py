"""Hidden states on their way from the leader of a replica to its other ranks."""

import torch

from antiphon.decoder.rank_commands import Followers, PutStates
from antiphon.decoder.runner import DecoderRunner
from antiphon.kv.handoff import HiddenStates


@torch.inference_mode()
def share_states(states: HiddenStates, runner: DecoderRunner, followers: Followers) -> None:
    """On the leader, whose arena has `states`: the current stream waits for them."""
    packed = states.packed.to(runner.device).contiguous()
    dtype = str(packed.dtype).removeprefix("torch.")
    followers(PutStates(states.keys, states.lengths, packed.shape[1], dtype))
    runner.ranks.broadcast(packed)


@torch.inference_mode()
def receive_states(command: PutStates, runner: DecoderRunner) -> None:
    """On every other rank: puts them into its arena."""
    shape, dtype = (sum(command.lengths), command.width), getattr(torch, command.dtype)
    packed = torch.empty(shape, dtype=dtype, device=runner.device)
    runner.ranks.broadcast(packed)
    runner.arena.put(HiddenStates(command.keys, command.lengths, packed))
