"""Where a process stands among those that compute one replica of a half."""

from dataclasses import dataclass
from typing import Self

from antiphon.config.parallel import Parallel
from antiphon.runtime.groups import Alone, Group


@dataclass(frozen=True)
class Ranks:
    """This rank of a replica, and its groups.

    `tensor`: the ranks of its stage, which share each layer. `stages`: one rank of each stage,
    those of the same tensor rank.
    """

    parallel: Parallel
    rank: int
    tensor: Group
    stages: Group

    def __post_init__(self) -> None:
        parallel, rank = self.parallel, self.rank
        assert 0 <= rank < parallel.num_ranks
        tensor, stages = self.tensor, self.stages
        assert (tensor.rank, tensor.size) == (parallel.tensor_rank_of(rank), parallel.tensor)
        assert (stages.rank, stages.size) == (parallel.stage_of(rank), parallel.pipeline)

    @classmethod
    def alone(cls) -> Self:
        """A replica of one rank."""
        return cls(Parallel(), 0, Alone(), Alone())

    @property
    def leader(self) -> int:
        return self.parallel.leader

    @property
    def is_leader(self) -> bool:
        """True on the rank that schedules."""
        return self.rank == self.leader

    @property
    def stage(self) -> int:
        return self.stages.rank

    @property
    def is_alone(self) -> bool:
        return self.parallel.num_ranks == 1

    def barrier(self) -> None:
        """Returns once every rank of the replica is here. The host waits."""
        self.tensor.barrier()
        self.stages.barrier()  # whoever is here has met all of its own stage

    def close(self) -> None:
        """Ends the groups on this rank. Calls of other ranks that wait for it then raise."""
        self.tensor.close()
        self.stages.close()
