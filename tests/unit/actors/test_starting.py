"""Who starts a worker: the engine's own process, or its supervisor where that one is busy."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayActorError, RaySystemError

from antiphon.actors.members import Start
from antiphon.actors.starting import Starter, StartOrders
from antiphon.scheduler.request import Incarnation

FIRST, SECOND = (Start(Incarnation("decoder-0", epoch), "decoder") for epoch in (1, 2))
OTHER = Start(Incarnation("encoder-0", 1), "encoder")


class Process:
    """What was started, and whether it was killed."""

    def __init__(self, incarnation: Incarnation) -> None:
        self.incarnation, self.killed = incarnation, False

    def kill(self) -> None:
        self.killed = True


class Blueprint:
    def __init__(self) -> None:
        self.made: list[Process] = []
        self.refusals: list[Exception] = []
        self.began, self.may_end = threading.Event(), threading.Event()
        self.may_end.set()

    def start(self, incarnation: Incarnation, role: str) -> Process:
        assert incarnation.name.startswith(role)
        self.began.set()
        assert self.may_end.wait(10)
        if self.refusals:
            raise self.refusals.pop()
        self.made.append(Process(incarnation))
        return self.made[-1]


class Call:
    def __init__(self, method: Callable[..., Coroutine[Any, Any, Any]], away: list[bool]) -> None:
        self._method, self._away = method, away

    async def remote(self, *arguments: Any) -> Any:
        if self._away:
            self._away.pop()
            raise RayActorError
        return await self._method(*arguments)


class Actor:
    """The supervisor as its calls through Ray look. `away`: how many of them find it dead."""

    def __init__(self, orders: StartOrders) -> None:
        self.away: list[bool] = []
        self.next_start = Call(orders.next_start, self.away)
        self.take_started = Call(orders.take_started, self.away)


def test_the_engines_process_starts_what_its_supervisor_orders() -> None:
    async def scenario() -> None:
        orders, blueprint, held = StartOrders(), Blueprint(), dict[Any, Any]()
        actor = Actor(orders)
        actor.away += [True]
        serving = asyncio.create_task(Starter(blueprint, held).serve(actor))  # type: ignore[arg-type]
        for order in (FIRST, OTHER, SECOND):
            started = await orders._ordered(order, 5.0)
            assert started is blueprint.made[-1]
            assert held[order.incarnation] is started
        assert set(held) == {OTHER.incarnation, SECOND.incarnation}, "the last of each worker"
        assert not any(process.killed for process in blueprint.made)
        serving.cancel()

    asyncio.run(scenario())


def test_a_start_that_comes_too_late_is_ended() -> None:
    async def scenario() -> None:
        orders, blueprint, held = StartOrders(), Blueprint(), dict[Any, Any]()
        assert await orders._ordered(FIRST, 0.01) is None  # nobody serves
        late = asyncio.create_task(orders.next_start())
        assert await orders.take_started(FIRST.incarnation, None) is False  # type: ignore[arg-type]
        waiting = asyncio.create_task(orders._ordered(SECOND, 0.05))
        order = await late
        assert order == SECOND, "what nobody waits for any more is not started"
        assert await waiting is None
        await Starter(blueprint, held)._answer(order, Actor(orders))  # type: ignore[arg-type]
        assert blueprint.made[0].killed
        assert not held

    asyncio.run(scenario())


def test_a_supervisor_that_dies_meanwhile_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        orders, blueprint, held = StartOrders(), Blueprint(), dict[Any, Any]()
        actor = Actor(orders)
        serving = asyncio.create_task(Starter(blueprint, held).serve(actor))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        actor.away += [True]  # it dies between the order and the answer
        assert await orders._ordered(FIRST, 0.05) is None
        async with asyncio.timeout(5):
            while not (blueprint.made and blueprint.made[0].killed):
                await asyncio.sleep(0.01)
        assert not held
        assert (await orders._ordered(SECOND, 5.0)) is blueprint.made[1]  # it goes on
        serving.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("refusal", [RaySystemError("no room"), ValueError("no room")])
def test_a_start_that_fails_here_is_left_to_the_supervisor_at_once(
    refusal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        orders, blueprint, held = StartOrders(), Blueprint(), dict[Any, Any]()
        starter = Starter(blueprint, held)  # type: ignore[arg-type]
        serving = asyncio.create_task(starter.serve(Actor(orders)))
        blueprint.refusals.append(refusal)
        async with asyncio.timeout(5):
            assert await orders._ordered(FIRST, 60.0) is None
        assert not held
        assert await orders._ordered(SECOND, 5.0) is blueprint.made[0]  # it goes on
        serving.cancel()

    asyncio.run(scenario())
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert str(FIRST.incarnation) in warnings[0]
    assert "no room" in warnings[0]


def test_a_supervisor_that_is_gone_for_good_is_asked_no_more() -> None:
    calls = []

    async def gone() -> Start:
        calls.append(None)
        raise ActorDiedError

    async def scenario() -> None:
        actor = Actor(StartOrders())
        actor.next_start = Call(gone, actor.away)
        async with asyncio.timeout(5):
            await Starter(Blueprint(), {}).serve(actor)  # type: ignore[arg-type]

    asyncio.run(scenario())
    assert len(calls) == 1


def test_a_close_waits_for_a_start_under_way_and_ends_it() -> None:
    orders, blueprint, held = StartOrders(), Blueprint(), dict[Any, Any]()
    blueprint.may_end.clear()
    starter = Starter(blueprint, held)  # type: ignore[arg-type]
    closing = threading.Thread(target=starter.close)

    async def scenario() -> None:
        serving = asyncio.create_task(starter.serve(Actor(orders)))
        ordered = asyncio.create_task(orders._ordered(FIRST, 5.0))
        await asyncio.to_thread(blueprint.began.wait, 5)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        closing.start()
        await asyncio.to_thread(closing.join, 0.1)
        assert closing.is_alive(), "this process would leave Ray in the midst of a start"
        blueprint.may_end.set()
        await asyncio.to_thread(closing.join, 5)
        assert [process.killed for process in blueprint.made] == [True]
        ordered.cancel()
        await starter._answer(SECOND, Actor(orders))
        assert len(blueprint.made) == 1, "started after the close"
        assert not held

    asyncio.run(scenario())


def test_an_answer_in_the_moment_of_the_timeout_is_taken() -> None:
    async def scenario() -> None:
        orders, process = StartOrders(), Process(FIRST.incarnation)
        ordered = asyncio.create_task(orders._ordered(FIRST, 0.02))
        await orders.next_start()
        answer: Any = orders._open[FIRST.incarnation]
        asyncio.get_running_loop().call_later(0.0, answer.set_result, process)
        time.sleep(0.05)  # both are due when the loop comes round, the answer first
        assert await ordered is process

    asyncio.run(scenario())
