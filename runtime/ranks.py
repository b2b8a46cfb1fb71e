"""Where a process stands among those that compute one replica of a half."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Self

import torch

from antiphon.config.parallel import Parallel
from antiphon.runtime.groups import Alone, Apart, Group
from antiphon.runtime.pausable import Pausable
from antiphon.runtime.waiting import RankError as RankError
from antiphon.runtime.waiting import WaitLimit


@dataclass(frozen=True)
class Ranks:
    """This rank of a replica, and its groups.

    `tensor`: the ranks of its stage, which share each layer. `stages`: one rank of each
    stage, those of the same tensor rank. `backward`: the same ranks once more, for what
    the last stage sends to the first: on a GPU, what one group sends waits for all that
    it was given before, so that the two directions would wait for each other.
    """

    parallel: Parallel
    rank: int
    tensor: Group
    stages: Group
    backward: Group
    limit: WaitLimit = field(default_factory=WaitLimit)  # for the host, of work on the device
    # Those that hold what the ranks exchange. NCCL ends no communicator before the last of its
    # graphs is destroyed: who captures one puts it here, and `close` begins with them.
    graphs: list[torch.cuda.CUDAGraph] = field(default_factory=list)

    def __post_init__(self) -> None:
        parallel, rank = self.parallel, self.rank
        assert 0 <= rank < parallel.num_ranks
        tensor = self.tensor
        assert (tensor.rank, tensor.size) == (parallel.tensor_rank_of(rank), parallel.tensor)
        for stages in (self.stages, self.backward):
            assert (stages.rank, stages.size) == (parallel.stage_of(rank), parallel.pipeline)

    @classmethod
    def alone(cls) -> Self:
        """A replica of one rank."""
        return cls(Parallel(), 0, Alone(), Alone(), Alone())

    @classmethod
    def beside(cls, decoder: "Ranks") -> Self:
        """Of the encoder in the process of a decoder's rank: it has all of the weights
        and takes a share of each batch's inputs. It exchanges nothing, and is led where
        the decoder is."""
        size = decoder.parallel.num_ranks
        rank = (decoder.rank - decoder.leader) % size
        tensor = Apart(rank, size)
        return cls(Parallel(size, mode="data"), rank, tensor, Alone(), Alone(), decoder.limit)

    @classmethod
    def imagined(cls, parallel: Parallel, rank: int) -> Self:
        """A rank without a process, to reckon with what it would hold."""
        tensor = Apart(parallel.tensor_rank_of(rank), parallel.tensor)
        stages = Apart(parallel.stage_of(rank), parallel.pipeline)
        return cls(parallel, rank, tensor, stages, stages)

    @property
    def exchanges(self) -> bool:
        """False for those that `beside` and `imagined` make."""
        return not isinstance(self.tensor, Apart)

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

    @property
    def groups(self) -> tuple[Group, ...]:
        return self.tensor, self.stages, self.backward

    # ------------------------------------------------------------------ among all ranks

    def barrier(self) -> None:
        """Returns once every rank of the replica is here. The host waits."""
        self.tensor.barrier()
        self.stages.barrier()  # whoever is here has met all of its own stage

    def minimum(self, value: int, device: torch.device) -> int:
        """The smallest `value` of all ranks. `device`: where their groups exchange
        tensors. Of ranks that exchange nothing, each has its own."""
        if self.is_alone or not self.exchanges:
            return value
        of_stage = self.tensor.all_gather(torch.tensor([value], device=device)).amin(0)
        return int(self.stages.all_gather(of_stage).min())

    def check_same(self, what: str, value: object, device: torch.device) -> None:
        """Raises RankError on all ranks if `value`, which stands for `what`, is another
        on any of them. Compared by `repr`. `device`: as in `minimum`."""
        digest = zlib.crc32(repr(value).encode())
        if self.exchanges and self.minimum(digest, device) != -self.minimum(-digest, device):
            raise RankError(f"the ranks differ in {what}; here: {value}")

    def reason_of_any(self, reason: str | None, device: torch.device) -> str | None:
        """Why this rank, or another, cannot do something that all do or none: `reason`
        is this one's, None if it can. `device`: as in `minimum`."""
        if not self.exchanges or self.minimum(int(reason is None), device):
            return reason
        return reason or "another rank cannot"

    def broadcast(self, x: torch.Tensor, source: int) -> None:
        """Overwrites `x` on every rank with that of rank `source`."""
        column = self.parallel.tensor_rank_of(source)
        if self.tensor.rank == column:
            self.stages.broadcast(x, self.parallel.stage_of(source))
        self.tensor.broadcast(x, column)

    # ------------------------------------------------------------------ without the others

    def pausable(self) -> Self:
        """The same, for `paused`."""
        if self.is_alone or not self.exchanges:
            return self
        tensor, stages, backward = map(Pausable, self.groups)
        return replace(self, tensor=tensor, stages=stages, backward=backward)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, nothing is exchanged and nobody waits: each rank computes at its own
        pace, with numbers that mean nothing. Of what `pausable` returned."""
        groups = [group for group in self.groups if isinstance(group, Pausable)]
        assert groups or self.is_alone or not self.exchanges
        for group in groups:
            group.paused = True
        try:
            yield
        finally:
            for group in groups:
                group.resume()

    def close(self) -> None:
        """Ends the groups on this rank, and the graphs. Calls of other ranks that wait
        for it then raise."""
        while self.graphs:
            self.graphs.pop().reset()
        for group in self.groups:
            group.close()
