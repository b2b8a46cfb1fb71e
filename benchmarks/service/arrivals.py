"""When requests are sent: as earlier ones end (closed loop), or at times of their own (open)."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from antiphon.config.errors import ConfigurationError
from antiphon.config.option_values import number, whole_number

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ClosedLoop:
    """`concurrency` callers, each of which asks anew as soon as it has its answer."""

    concurrency: int

    def __post_init__(self) -> None:
        """Raises ConfigurationError."""
        whole_number("the callers of a closed loop", self.concurrency)

    @property
    def label(self) -> str:
        return f"{self.concurrency} callers"

    async def run(self, items: Sequence[T], ask: Callable[[T], Awaitable[R]]) -> list[R]:
        """Answers in the order in which they came."""
        left, answers = iter(items), list[R]()

        async def caller() -> None:
            for item in left:
                answers.append(await ask(item))

        await asyncio.gather(*(caller() for _ in range(self.concurrency)))
        return answers


@dataclass(frozen=True)
class OpenLoop:
    """Requests come whether earlier ones have ended or not.

    `rate`: requests a second. `last_rate`: the rate grows to this one from the first request to
    the last. `burstiness`: shape of the gamma distribution of the gaps: 1 is a Poisson process,
    less comes in bursts, more is more even; infinite: at equal gaps.
    """

    rate: float
    last_rate: float | None = None
    burstiness: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigurationError."""
        if not self.burstiness > 0:  # infinite: at equal gaps
            raise ConfigurationError(f"burstiness must be above 0, not {self.burstiness:g}")
        number("rate", self.rate)
        if self.last_rate is not None:
            number("the last rate", self.last_rate)

    @property
    def label(self) -> str:
        grown = "" if self.last_rate is None else f" to {self.last_rate:g}"
        return f"{self.rate:g}{grown}/s"

    def gaps(self, count: int, rng: np.random.Generator) -> list[float]:
        """Seconds before each request."""
        rates = np.linspace(self.rate, self.last_rate or self.rate, count)
        if np.isinf(self.burstiness):
            gaps: list[float] = (1 / rates).tolist()
        else:
            gaps = rng.gamma(self.burstiness, 1 / (self.burstiness * rates)).tolist()
        return gaps

    async def run(self, items: Sequence[T], ask: Callable[[T], Awaitable[R]]) -> list[R]:
        """Answers in the order of the requests. A request that is late makes no other late."""
        gaps, tasks = self.gaps(len(items), np.random.default_rng(self.seed)), []
        due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for item, gap in zip(items, gaps, strict=True):
                due += gap
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.append(group.create_task(_awaited(ask(item))))
        return [task.result() for task in tasks]


async def _awaited(answer: Awaitable[R]) -> R:
    return await answer


Arrivals = ClosedLoop | OpenLoop
