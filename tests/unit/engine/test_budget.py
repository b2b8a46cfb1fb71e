"""Sound in memory stays within its bound, whoever asks, ends early or is cancelled."""

import asyncio
import random

import pytest

from antiphon.engine.budget import ByteBudget


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_asking_ending_and_cancelling_keeps_the_bound(seed: int) -> None:
    rng = random.Random(seed)
    budget, most, served = ByteBudget(100), [0], []

    async def use(number: int, expected: int, actual: int) -> None:
        async with budget.hold(expected) as held:
            most[0] = max(most[0], budget.held)
            await asyncio.sleep(0)
            held.set(actual)
            await asyncio.sleep(rng.random() * 1e-3)
            served.append(number)

    async def run() -> None:
        tasks = [
            asyncio.create_task(use(number, size := rng.randint(0, 60), rng.randint(0, size)))
            for number in range(200)
        ]
        await asyncio.sleep(1e-3)
        cancelled = [task for task in rng.sample(tasks, 60) if task.cancel()]
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(served) + sum(task.cancelled() for task in cancelled) >= 200 - len(cancelled)

    asyncio.run(run())
    assert budget.held == 0
    assert most[0] <= 100
    assert not budget._waiting


@pytest.mark.parametrize("seed", range(8))
def test_those_that_need_more_than_they_hold_never_wait_for_each_other(seed: int) -> None:
    rng = random.Random(seed)
    budget, served = ByteBudget(100), []

    async def use(number: int, sizes: list[int]) -> None:
        async with budget.hold(sizes[0]) as held:
            for size in sizes[1:]:
                await asyncio.sleep(rng.random() * 1e-3)
                await held.resize(size)
                assert budget.held >= held.count == size
            served.append(number)

    async def run() -> None:
        tasks = [
            asyncio.create_task(use(number, [rng.randint(0, 60) for _ in range(4)]))
            for number in range(200)
        ]
        await asyncio.sleep(1e-3)
        for task in rng.sample(tasks, 60):
            task.cancel()
        async with asyncio.timeout(20):
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
    assert len(served) >= 140
    assert budget.held == budget._of_waiting == 0
    assert not budget._waiting
    assert not budget._growing


def test_more_is_given_before_anything_new_and_waits_for_room() -> None:
    budget, order = ByteBudget(10), []

    async def grows() -> None:
        async with budget.hold(4) as held:
            await asyncio.sleep(0)
            await held.resize(8)
            order.append("grown")

    async def stays() -> None:
        async with budget.hold(4):
            await asyncio.sleep(2e-3)
            order.append("stays")

    async def comes(count: int) -> None:
        await asyncio.sleep(1e-3)
        async with budget.hold(count):
            order.append("new")

    async def run() -> None:
        await asyncio.gather(grows(), stays(), comes(2))

    asyncio.run(run())
    assert order == ["stays", "grown", "new"]


def test_one_that_is_larger_than_all_goes_alone_and_none_overtakes() -> None:
    budget, order = ByteBudget(10), []

    async def use(name: str, count: int) -> None:
        async with budget.hold(count):
            order.append((name, budget.held))
            await asyncio.sleep(1e-3)

    async def run() -> None:
        await asyncio.gather(use("first", 6), use("huge", 50), use("small", 1), use("nothing", 0))

    asyncio.run(run())
    assert order == [("first", 6), ("nothing", 6), ("huge", 50), ("small", 1)]


def test_room_is_taken_at_once_or_not_at_all() -> None:
    budget = ByteBudget(10)

    async def run() -> None:
        async with budget.hold(0) as first, budget.hold(0) as second:
            assert first.take(6)
            assert not second.take(6)
            assert (first.count, second.count, budget.held) == (6, 0, 6)
            assert second.take(4)
            waiting = asyncio.create_task(first.resize(10))
            await asyncio.sleep(0)
            second.set(1)  # 3 are free, but somebody waits for 4
            assert not second.take(2)
            second.set(0)
            await waiting
        assert budget.held == 0

    asyncio.run(run())
