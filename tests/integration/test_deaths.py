"""Workers that are killed, stopped or hang: noticed in time, restarted, and no request is lost."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayActorError

from antiphon import AsyncEngine, SamplingParams
from antiphon.actors.processes import birth
from antiphon.benchmarks.chaos import Load, disturb, followed, signalled
from antiphon.config.errors import ConfigurationError, EngineDeadError
from antiphon.scheduler.request import Incarnation

pytestmark = pytest.mark.usefixtures("ray_cluster")

PROMPTS = [f"in words: {number}" for number in (3, 17, 407, 99_000, 123_456, 5, 999_999, 70_070)]
LONG = SamplingParams(ignore_eos=True, max_tokens=120)
LONGEST = SamplingParams(ignore_eos=True, max_tokens=500)
OPTIONS = {"max_num_seqs": 8, "num_threads": 1, "max_restarts": 100}
NOTICE_SECONDS = 3.0
HANG_SECONDS = 2.0  # a loop that does not come round for so long hangs

Scenario = Callable[[AsyncEngine], Coroutine[Any, Any, None]]


def run(folder: Path, scenario: Scenario, **options: Any) -> None:
    async def with_engine() -> None:
        async with AsyncEngine(str(folder), **OPTIONS | options) as engine:
            await scenario(engine)

    asyncio.run(with_engine())


async def served(engine: AsyncEngine, count: int) -> None:
    """Until the decoders have so many requests, however fast or slow the machine is."""
    async with asyncio.timeout(60):
        while (await engine.stats())["open"] < count:
            await asyncio.sleep(0.01)


async def running(engine: AsyncEngine, worker: str) -> Any:
    """The actor of its present incarnation, once that runs: it may just have started again."""
    async with asyncio.timeout(60):
        while True:
            members = {member.name: member for member in engine.workers.members}
            incarnation = Incarnation(worker, members[worker].epoch)
            if members[worker].alive and incarnation in engine.workers._started:
                return engine.workers._started[incarnation].handle
            await asyncio.sleep(0.01)


async def supervisor_pid(engine: AsyncEngine) -> int:
    supervisor = engine.workers._supervisor.handle
    return await supervisor.__ray_call__.remote(lambda _: os.getpid())


async def kill_supervisor(engine: AsyncEngine) -> None:
    os.kill(await supervisor_pid(engine), signal.SIGKILL)


async def killed(engine: AsyncEngine, worker: str) -> None:
    spot = (await engine.workers.processes())[worker]
    await signalled(engine.workers, worker, spot, "SIGKILL")


WAYS = [("SIGKILL", "decoder-0"), ("SIGSTOP", "encoder-0")]
OTHER_WAYS = [("SIGKILL", "encoder-0"), ("SIGSTOP", "decoder-0")]


@pytest.mark.parametrize("ways", [WAYS, pytest.param(OTHER_WAYS, marks=pytest.mark.slow)])
def test_requests_go_on_after_deaths_and_hangs(
    t5_folder: Path, ways: list[tuple[str, str]]
) -> None:
    """Of the only worker of each half in turn, amid streams and calls without a stream."""

    async def scenario(engine: AsyncEngine) -> None:
        load = Load(engine, PROMPTS, LONG)
        await load.learn()
        for how, worker in ways:
            serving = asyncio.create_task(load.serve(24, concurrency=12))
            await served(engine, 4)
            spot = (await engine.workers.processes())[worker]
            disturbance = await signalled(engine.workers, worker, spot, how)
            await serving
            assert load.tally.is_right, (how, worker, load.tally.failed, load.tally.wrong)
            assert disturbance.noticed < NOTICE_SECONDS, (how, worker)
        assert (await engine.stats())["open"] == 0

    run(t5_folder, scenario)


def hang(half: str) -> Callable[[Any], None]:
    """For a worker's process: its loop hangs, the decoder's in Python and the encoder's in native
    code that lets no other thread run."""

    def forever(*_: Any) -> None:
        import re
        import time

        while half == "decoder":
            time.sleep(0.1)
        re.match("(a+)+$", "a" * 60 + "b")

    return lambda process: setattr(getattr(process.actor, half), "run_once", forever)


@pytest.mark.slow
def test_loops_that_hang_are_ended(t5_folder: Path) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        load = Load(engine, PROMPTS, LONG)
        await load.learn()
        for half in ("encoder", "decoder"):
            serving = asyncio.create_task(load.serve(24, concurrency=12))
            await served(engine, 4)
            handle = await running(engine, f"{half}-0")
            answer = handle.__ray_call__.remote(hang(half))  # may never come: the encoder is stuck
            disturbance = await followed(engine.workers, f"{half}-0", "hang")
            with suppress(RayActorError):
                await answer
            await serving
            assert load.tally.is_right, (half, load.tally.failed, load.tally.wrong)
            assert disturbance.noticed < HANG_SECONDS + NOTICE_SECONDS, half

    run(t5_folder, scenario, hang_timeout=HANG_SECONDS)


@pytest.mark.slow
def test_workers_outlive_a_machine_that_stands_still(t5_folder: Path) -> None:
    """All processes of the engine at once, for longer than a worker may be silent or hang."""

    async def scenario(engine: AsyncEngine) -> None:
        load = Load(engine, PROMPTS, LONG)
        await load.learn()
        before = await engine.workers.processes()
        processes = [await supervisor_pid(engine), *(spot.pid for spot in before.values())]
        serving = asyncio.create_task(load.serve(24, concurrency=12))
        await served(engine, 4)
        for how in (signal.SIGSTOP, signal.SIGCONT):
            for pid in processes:
                os.kill(pid, how)
            await asyncio.sleep(4.0)
        await serving
        assert load.tally.is_right, (load.tally.failed, load.tally.wrong)
        assert await engine.workers.processes() == before

    run(t5_folder, scenario, hang_timeout=HANG_SECONDS)


@pytest.mark.slow  # fast: test_without_any_worker_that_will_come_requests_fail_at_once, played
def test_an_engine_whose_worker_may_not_restart_ends_at_once_for_all(t5_folder: Path) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        calls = [asyncio.create_task(engine.generate(prompt, LONGEST)) for prompt in PROMPTS]
        await served(engine, 4)
        spot = (await engine.workers.processes())["decoder-0"]
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(signalled(engine.workers, "decoder-0", spot, "SIGKILL"), 2.0)
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(end, EngineDeadError) for end in ends), ends
        assert "decoder-0" in str(ends[0])
        assert "max_restarts=0" in str(ends[0])
        assert time.monotonic() - began < NOTICE_SECONDS
        with pytest.raises(EngineDeadError, match="max_restarts=0"):
            await engine.generate("in words: 3")

    run(t5_folder, scenario, max_restarts=0)


def test_the_death_of_the_supervisor_ends_the_engine_at_once_for_all(t5_folder: Path) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        """Its workers end too, and nobody can attach any more."""
        calls = [asyncio.create_task(engine.generate(prompt, LONGEST)) for prompt in PROMPTS]
        await served(engine, 4)
        spots = (await engine.workers.processes()).values()
        began = time.monotonic()
        await kill_supervisor(engine)
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(end, EngineDeadError) for end in ends), ends
        assert "the engine's supervisor" in str(ends[0])
        assert time.monotonic() - began < NOTICE_SECONDS
        async with asyncio.timeout(10):
            while any(birth(spot.pid) == spot.born for spot in spots):
                await asyncio.sleep(0.05)
        refused = r"no engine named 'orphan'|the engine's supervisor ended"
        with pytest.raises((ConfigurationError, EngineDeadError), match=refused):
            await AsyncEngine.attach("orphan")

    run(t5_folder, scenario, name="orphan", max_restarts=0)


@pytest.mark.slow
def test_an_engine_outlives_its_supervisor(t5_folder: Path) -> None:
    """In the middle of requests of two frontends: each ends once, with its tokens."""

    async def scenario(engine: AsyncEngine) -> None:
        async with await AsyncEngine.attach("survivor") as attached:
            loads = [Load(frontend, PROMPTS, LONG) for frontend in (engine, attached)]
            for load in loads:
                await load.learn()

            async def amid(disturb: Callable[[], Coroutine[Any, Any, Any]]) -> None:
                serving = [asyncio.create_task(load.serve(30, concurrency=6)) for load in loads]
                await served(engine, 4)
                await disturb()
                await asyncio.gather(*serving)
                for load in loads:
                    assert load.tally.is_right, (load.tally.failed, load.tally.wrong)

            before = await engine.workers.processes()
            await amid(lambda: kill_supervisor(engine))
            assert await engine.workers.processes() == before, "the workers went on"
            await amid(lambda: killed(engine, "decoder-0"))  # who watches starts it again
            replaced = await engine.workers.processes()
            assert replaced["decoder-0"] != before["decoder-0"]
            await amid(lambda: kill_supervisor(engine))
            assert await engine.workers.processes() == replaced, "also what was started again"
        async with await AsyncEngine.attach("survivor") as newcomer:
            output = await newcomer.generate("in words: 3")
            assert output.outputs[0].text == (await engine.generate("in words: 3")).outputs[0].text
        assert (await engine.stats())["open"] == 0

    run(t5_folder, scenario, name="survivor")


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["disaggregated", "colocated"])
def test_chaos(t5_folder: Path, placement: str) -> None:
    """300 requests, and a random worker killed or stopped a second after the last one came back:
    all right, each once. It goes on until there were enough disturbances, however long a worker
    takes to come back."""

    async def scenario(engine: AsyncEngine) -> None:
        load = Load(engine, PROMPTS, LONG)
        await load.learn()
        hows = ["SIGKILL", "SIGSTOP"]
        chaos = asyncio.create_task(disturb(engine, load.tally, 1.0, random.Random(3), hows))
        tally = load.tally

        def enough() -> bool:
            seen = {each.signal for each in tally.disturbances}
            return chaos.done() or (len(tally.disturbances) >= 3 and seen == set(hows))

        async with asyncio.timeout(240):
            await load.serve(300, concurrency=16, enough=enough)
        chaos.cancel()
        with suppress(asyncio.CancelledError):
            await chaos  # raises if a worker did not come back
        assert tally.is_right, (tally.failed, tally.wrong)
        assert tally.requests >= 300
        assert max(each.noticed for each in tally.disturbances) < NOTICE_SECONDS

    run(t5_folder, scenario, placement=placement, encoder_replicas=2, decoder_replicas=2)
