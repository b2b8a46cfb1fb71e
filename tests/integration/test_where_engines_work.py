"""Engines in other threads and loops, copied, closed twice or late: they work, or say why not."""

import asyncio
import copy
import pickle
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import forked_commands
import pytest
from forked_commands import ENGINES
from paths import T5

from antiphon.config.errors import ConfigurationError, EngineDeadError
from antiphon.engine.async_engine import AsyncEngine
from antiphon.engine.sync_engine import Engine

MODEL = str(T5)
TIMEOUT = 30.0
CALLS: dict[str, Callable[[AsyncEngine], Any]] = {
    "generate": lambda engine: engine.generate("12"),
    "stream": lambda engine: anext(engine.stream("12")),
    "transcribe": lambda engine: engine.transcribe("x.wav"),
    "detect_language": lambda engine: engine.detect_language("x.wav"),
    "stats": lambda engine: engine.stats(),
}


@pytest.fixture(scope="module")
def engine():
    with Engine(MODEL, ray=False) as engine:
        yield engine


def in_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(TIMEOUT)


@pytest.mark.parametrize("call", CALLS)
def test_another_threads_event_loop_is_refused_at_once(engine: Engine, call: str) -> None:
    async def work() -> None:
        await CALLS[call](engine._async)

    with pytest.raises(EngineDeadError, match="started in another event loop"):
        in_thread(lambda: asyncio.run(asyncio.wait_for(work(), TIMEOUT)))
    assert engine.generate("12", use_tqdm=False)[0].outputs  # and does no harm


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_or_unstarted_engine_says_so(call: str) -> None:
    async def run() -> None:
        engine = AsyncEngine(MODEL, ray=False)
        with pytest.raises(EngineDeadError, match="has not been started"):
            await CALLS[call](engine)
        await engine.close()  # nothing to close
        await engine.start()
        for _ in range(2):
            await engine.close()
        with pytest.raises(EngineDeadError, match="was closed"):
            await CALLS[call](engine)

    asyncio.run(run())


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    "copied", [pickle.dumps, copy.copy, copy.deepcopy], ids=lambda function: function.__name__
)
def test_copies_are_refused_in_words(
    engine: Engine, copied: Callable[[Any], Any], asynchronous: bool
) -> None:
    with pytest.raises(TypeError, match=r"can't be pickled or copied\. Make one where it is used"):
        copied(engine._async if asynchronous else engine)
    if copied is not copy.copy:
        with pytest.raises(TypeError, match="pickled"):
            copied(engine.generate)


def test_an_engine_made_in_one_loop_starts_in_another() -> None:
    async def make() -> AsyncEngine:
        return AsyncEngine(MODEL, ray=False)

    async def use(engine: AsyncEngine) -> str:
        async with engine:
            return (await engine.generate("in words: 12")).outputs[0].text

    engine = asyncio.run(make())
    assert asyncio.run(use(engine)) == in_thread(lambda: asyncio.run(use(engine))) == "twelve"


def test_an_engine_is_closed_from_another_threads_loop_while_its_own_runs() -> None:
    """What waits in its own loop is woken there, and ends once."""
    started, engines, ends = threading.Event(), [], []

    async def serve() -> None:
        engine = await AsyncEngine(MODEL, ray=False).start()
        engine.workers._actor.encoder.runner.encode = lambda inputs: time.sleep(1.0)
        calls = [asyncio.ensure_future(engine.generate(str(i))) for i in range(3)]
        await asyncio.sleep(0.1)
        engines.append(engine)
        started.set()
        ends.extend(await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), TIMEOUT))

    serving = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    serving.start()
    assert started.wait(TIMEOUT)
    asyncio.run(asyncio.wait_for(engines[0].close(), TIMEOUT))
    serving.join(TIMEOUT)
    assert [type(end) for end in ends] == [EngineDeadError] * 3
    asyncio.run(engines[0].close())


def test_an_engine_is_closed_from_another_loop_while_its_own_rests() -> None:
    own = asyncio.new_event_loop()
    engine = AsyncEngine(MODEL, ray=False)
    own.run_until_complete(engine.start())
    asyncio.run(asyncio.wait_for(engine.close(), TIMEOUT))
    with pytest.raises(EngineDeadError, match="closed"):
        own.run_until_complete(engine.generate("12"))
    own.run_until_complete(asyncio.sleep(0.01))
    own.close()


def test_a_finalizer_in_the_engines_own_thread_waits_for_nobody() -> None:
    """Where the garbage collector happens to run it."""
    engine = Engine(MODEL, ray=False)
    thread = engine._loop_thread.thread
    refused: list[Exception] = []

    def finalize() -> None:
        try:
            engine.generate("12", use_tqdm=False)
        except ConfigurationError as error:
            refused.append(error)
        engine.close()

    engine._loop_thread.loop.call_soon_threadsafe(finalize)
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert "own thread" in str(refused[0])
    with pytest.raises(EngineDeadError, match="closed"):
        engine.generate("12", use_tqdm=False)


@pytest.mark.parametrize("last", ["close at exit", "close in a finalizer", "nothing"])
def test_a_program_ends_by_itself_and_quietly(last: str) -> None:
    program = f"""
        import atexit, sys
        from antiphon import Engine

        class Service:
            def __init__(self):
                self.engine = Engine({MODEL!r}, ray=False)
            def __del__(self):
                if {last == "close in a finalizer"}:
                    self.engine.close()
                    self.engine.close()

        sys.service = Service()  # lives until the interpreter has gone down
        if {last == "close at exit"}:
            atexit.register(sys.service.engine.close)
        print(sys.service.engine.generate("in words: 7", use_tqdm=False)[0].outputs[0].text)
        """
    run = forked_commands.run(textwrap.dedent(program), imported=ENGINES)
    assert (run.returncode, run.stdout, run.stderr) == (0, "seven\n", "")


def test_an_engine_that_was_made_before_a_fork_starts_behind_it() -> None:
    program = f"""
        import asyncio, os
        from antiphon import AsyncEngine
        engine = AsyncEngine({MODEL!r}, ray=False)

        async def use():
            async with engine:
                return (await engine.generate("in words: 7")).outputs[0].text

        if (child := os.fork()) == 0:
            print(asyncio.run(use()), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        """
    run = forked_commands.run(textwrap.dedent(program), imported=ENGINES)
    assert (run.returncode, run.stdout) == (0, "seven\n"), run.stderr
