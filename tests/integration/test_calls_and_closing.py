"""Values at the door of a call, and calls that meet a `close()` from another thread."""

import asyncio
import io
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import forked_commands
import numpy as np
import pytest
from forked_commands import ENGINES
from paths import T5

from antiphon.config.errors import EngineDeadError, PromptError, SamplingError
from antiphon.config.sampling import SamplingParams
from antiphon.engine.async_engine import AsyncEngine
from antiphon.engine.sync_engine import Engine
from antiphon.inputs.audio.forms import load_audio
from antiphon.inputs.calls.options import checked_priority
from antiphon.inputs.calls.transcription import checked_timeout
from antiphon.inputs.prompts import token_ids
from antiphon.runtime.threads import DaemonThreads

MODEL = str(T5)
TIMEOUT = 30.0


@pytest.fixture(scope="module")
def engine():
    with Engine(MODEL, ray=False) as engine:
        yield engine


def test_calls_that_meet_a_close_end_all_the_same():
    engine = Engine(MODEL, ray=False)
    ends: list[BaseException] = []

    def call(work: Callable[[], object]) -> None:
        try:
            while True:
                work()
        except BaseException as error:
            ends.append(error)

    calls = [lambda: engine.generate(["12"] * 3, use_tqdm=False)] * 5 + [engine.stats]
    callers = [threading.Thread(target=call, args=(work,), daemon=True) for work in calls]
    closers = [threading.Thread(target=engine.close, daemon=True) for _ in range(2)]
    for thread in callers:
        thread.start()
    time.sleep(0.2)
    for thread in closers:
        thread.start()
    for thread in callers + closers:
        thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in callers + closers)
    assert [type(error) for error in ends] == [EngineDeadError] * len(calls)


def test_a_call_behind_the_loops_end_is_refused(engine):
    other = Engine(MODEL, ray=False)
    stream = other.stream("12")
    next(stream)
    other.close()
    with pytest.raises(EngineDeadError, match="closed"):
        list(stream)
    with pytest.raises(EngineDeadError, match="closed"):
        other.generate("12")
    other.close()
    assert engine.generate("12", use_tqdm=False)[0].outputs


def test_a_closed_engine_leaves_no_thread():
    before = set(threading.enumerate())
    Engine(MODEL, ray=False).close()
    end = time.monotonic() + TIMEOUT
    while (left := set(threading.enumerate()) - before) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left


def test_starts_at_once_are_one_start():
    async def run() -> int:
        before = threading.active_count()
        engine = AsyncEngine(MODEL, ray=False)
        first, second = await asyncio.gather(engine.start(), engine.start())
        assert first is second is engine
        await engine.close()
        return threading.active_count() - before

    assert (
        asyncio.run(run()) <= 2
    )  # the thread that started it, and the one that closed it, may be about to end


def test_a_program_ends_with_a_stream_that_it_never_finished():
    program = f"""
        from antiphon import Engine
        engine = Engine({MODEL!r}, ray=False)
        stream = engine.stream("12")
        next(stream)
        """
    run = forked_commands.run(textwrap.dedent(program), imported=ENGINES)
    assert (run.returncode, run.stderr) == (0, "")


def test_shutdown_does_not_wait_for_work_that_a_thread_took():
    for _ in range(200):
        threads = DaemonThreads(4, "test")
        for _ in range(8):
            threads.submit(time.sleep, 0)
        ending = threading.Thread(
            target=threads.shutdown, args=(False,), kwargs={"cancel_futures": True}, daemon=True
        )
        ending.start()
        ending.join(TIMEOUT)
        assert not ending.is_alive()


@pytest.mark.parametrize("priority", ["high", 1.5, float("nan"), True, np.True_, [1], object()])
def test_a_wrong_priority_is_named(engine, priority):
    with pytest.raises(PromptError, match="priority must be a whole number"):
        engine.generate("12", use_tqdm=False, priority=priority)
    with pytest.raises(PromptError, match="priority"):
        list(engine.stream("12", priority=priority))


def test_priorities_and_timeouts_of_any_number_type():
    assert checked_priority(None) == 0
    assert checked_priority(np.int32(-3)) == -3
    assert checked_timeout(10**400) == float("inf")
    with pytest.raises(PromptError, match="timeout"):
        checked_timeout(-(10**400))


@pytest.mark.parametrize(
    "ids", [[1.7], ["5"], "123", b"12", [True], [None], [[1]], 5, {1: 2}, np.array([1.0])]
)
def test_what_is_no_token_ids_is_refused(ids):
    with pytest.raises(PromptError, match="whole numbers"):
        token_ids(ids)


@pytest.mark.parametrize(
    "ids", [[5, 1], (5, 1), np.array([5, 1]), np.array([5, 1], np.uint8), [np.int64(5), 1]]
)
def test_token_ids_of_any_integer_type(ids):
    assert token_ids(ids) == (5, 1)


@pytest.mark.parametrize("prompts", [None, 5, b"12", bytearray(b"12")])
def test_what_is_no_prompts_is_one_error(engine, prompts):
    with pytest.raises(PromptError, match="prompts must be"):
        engine.generate(prompts, use_tqdm=False)


@pytest.mark.parametrize(
    "recording",
    [None, 5, bytearray(b"x"), io.BytesIO(b"x"), np.zeros(16000), Path("x.wav"), {"path": "x"}],
)
def test_a_single_recording_is_no_list(engine, recording):
    with pytest.raises(PromptError, match="give a list of recordings"):
        engine.transcribe_all(recording)


def test_absent_parameters_among_others(engine):
    outputs = engine.generate(["12", "12"], [None, SamplingParams(max_tokens=1)], use_tqdm=False)
    assert outputs[1].outputs[0].finish_reason == "length"
    assert outputs[0].outputs[0].text == engine.generate("12", use_tqdm=False)[0].outputs[0].text
    with pytest.raises(SamplingError, match="number 1 is dict"):
        engine.generate(["12", "12"], [None, {}], use_tqdm=False)  # type: ignore[list-item]


class Raising:
    """A caller's object that raises an error of its own whenever it is read."""

    def __index__(self) -> int:
        raise RuntimeError("no index")

    def __iter__(self):
        raise RuntimeError("no items")


@pytest.mark.parametrize(
    "name",
    ["n", "top_k", "seed", "max_tokens", "logprobs", "stop", "stop_token_ids", "allowed_token_ids"],
)
def test_a_value_that_raises_is_a_wrong_value(name):
    with pytest.raises(SamplingError, match=name):
        SamplingParams(**{name: Raising()})


@pytest.mark.parametrize("dtype", [">i2", ">i4", ">i8", ">f4", ">f8", "<i4"])
def test_samples_in_either_byte_order(dtype):
    wave = np.sin(np.arange(16000) * 0.05) * 0.6
    samples = wave * 32767 if "i" in dtype else wave
    heard = load_audio(samples.astype(dtype), 16000)
    np.testing.assert_allclose(heard, wave, atol=1e-4)
