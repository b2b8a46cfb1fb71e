"""How many ranks compute one replica of a half together."""

from dataclasses import dataclass
from typing import Literal

TensorMode = Literal["weights", "data"]


@dataclass(frozen=True)
class Parallel:
    """Of one half's replica: `tensor` ranks share each layer, `pipeline` stages share the layers.

    Rank number `stage * tensor + tensor_rank`. `mode`: the ranks of a stage share its weights, or
    each has all of them and they share a batch's inputs (encoders alone).
    """

    tensor: int = 1
    pipeline: int = 1
    mode: TensorMode = "weights"

    @property
    def num_ranks(self) -> int:
        return self.tensor * self.pipeline

    @property
    def leader(self) -> int:
        """The rank that schedules: the first of the last stage, where sampled tokens are."""
        return (self.pipeline - 1) * self.tensor

    def stage_of(self, rank: int) -> int:
        return rank // self.tensor

    def tensor_rank_of(self, rank: int) -> int:
        return rank % self.tensor

    def __str__(self) -> str:
        return f"tensor {self.tensor} x pipeline {self.pipeline} = {self.num_ranks} ranks"


@dataclass(frozen=True)
class RankSpec:
    """Which rank of a replica a process is to be. `timeout`: seconds for the other ranks to come to
    a collective call; `startup_timeout`: for their processes to start."""

    parallel: Parallel
    rank: int
    timeout: float
    startup_timeout: float
