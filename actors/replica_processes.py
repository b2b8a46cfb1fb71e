"""The processes of one worker: one for each rank of its replica. They live and die together."""

import asyncio
from dataclasses import dataclass, field

from antiphon.actors.blueprint import Started
from antiphon.actors.processes import Spot, end_process


@dataclass
class ReplicaProcesses:
    """Those of one incarnation. `spots`: where its ranks run, the leader first, once that is
    known."""

    started: Started
    spots: list[Spot] = field(default_factory=list)

    async def first_end(self) -> str:
        """Why the first rank that ends does. Raises as Ray's calls."""
        watches = [
            asyncio.ensure_future(rank.handle.watch.options(concurrency_group="watch").remote())
            for rank in self.started.ranks
        ]
        for watch in watches:
            watch.add_done_callback(_retrieved)  # all of them end with the replica
        done, _ = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        return str(done.pop().result())

    async def end(self) -> None:
        """Returns when all of them are gone."""
        spots: list[Spot | None] = [*self.spots] or [None] * len(self.started.ranks)
        ranks = zip(self.started.ranks, spots, strict=True)
        await asyncio.gather(*(end_process(rank.handle, spot) for rank, spot in ranks))
        self.started.release()


def _retrieved(watch: "asyncio.Future[str]") -> None:
    """An error that comes too late to matter is not one that nobody has seen."""
    if not watch.cancelled():
        watch.exception()
