"""A rank's place in a pipeline of encoder layers."""

import torch

from antiphon.layers.shard import Part
from antiphon.runtime.groups import Group


class Stage:
    """What its layers read comes from the stage before, unless it is the first one, which embeds;
    what they give goes on to the next one. Everything is queued on the current stream."""

    def __init__(self, part: Part, stages: Group) -> None:
        self.is_first, self.is_last = part.is_first, part.is_last
        self._stages = stages

    def receive(self, into: torch.Tensor) -> torch.Tensor:
        """Overwrites `into` [tokens, hidden] with what the stage before passes on."""
        assert not self.is_first
        self._stages.receive(into, self._stages.rank - 1)
        return into

    def pass_on(self, x: torch.Tensor) -> None:
        """[tokens, hidden] of this stage's layers, to the next one; of the last one to nobody."""
        if not self.is_last:
            self._stages.send(x, self._stages.rank + 1)
