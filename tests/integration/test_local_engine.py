"""The engine without Ray: odd values of callers, workers that hang or end, other loops."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from paths import RECORDINGS

from antiphon import AntiphonError, AsyncEngine, Engine, SamplingParams
from antiphon.actors.messages import Message, Submit
from antiphon.config.errors import (
    ConfigurationError,
    EngineDeadError,
    PromptError,
    RequestExpired,
    RequestFailed,
    SamplingError,
)
from antiphon.engine import life
from antiphon.engine.requests import OpenRequests


@pytest.fixture(scope="module")
def t5(t5_folder: Path) -> Iterator[Engine]:
    with Engine(str(t5_folder), ray=False, max_num_seqs=8) as engine:
        yield engine


@pytest.fixture
def own(t5_folder: Path) -> Iterator[Engine]:
    """For tests that break it."""
    with Engine(str(t5_folder), ray=False, max_num_seqs=8) as engine:
        yield engine


def text(engine: Engine, prompt: str = "in words: 42", **options: Any) -> str:
    return engine.generate(prompt, use_tqdm=False, **options)[0].outputs[0].text


def test_both_halves_in_this_process(t5: Engine) -> None:
    outputs = t5.generate([f"in words: {number}" for number in range(40)], use_tqdm=False)
    assert [output.outputs[0].text for output in outputs[:3]] == ["zero", "one", "two"]
    assert t5.workers is not None
    assert t5.workers.info["placement"] == "in this process"
    assert "".join(delta.text for delta in t5.stream("in words: 7")) == "seven"
    assert t5.stats()["open"] == 0
    assert "in this process" in repr(t5)


def test_bfloat16_reads_pages_in_place_too(t5_folder: Path) -> None:
    with Engine(str(t5_folder), ray=False, dtype="bfloat16") as engine:
        assert engine.workers is not None
        assert engine.workers.info["decoder"]["attention"] == "cpu_paged"
        outputs = engine.generate([f"in words: {number}" for number in (0, 7, 42)], use_tqdm=False)
        assert [output.outputs[0].text for output in outputs] == ["zero", "seven", "forty two"]


def test_recordings(whisper_folder: Path) -> None:
    with Engine(str(whisper_folder), ray=False) as engine:
        results = engine.transcribe_all(
            [RECORDINGS / "call.wav", "/no/such.wav", RECORDINGS / "wecker.wav"]
        )
        assert [getattr(result, "text", None) for result in results] == [
            "call seven nine zero",
            None,
            "wecke mich morgen um vier",
        ]
        names = (RECORDINGS / name for name in ("call.wav", "door.mp3"))
        places = {
            index: getattr(result, "text", "")
            for index, result in engine.transcribe_as_completed(names)
        }
        assert places == {0: "call seven nine zero", 1: "open the door"} or "open" in places[1]
        with pytest.raises(PromptError, match="give a list of recordings, not str"):
            engine.transcribe_all("call.wav")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_replicas": 2}, "encoder_replicas=2 needs a process for each"),
        ({"decoder_replicas": 3}, "decoder_replicas=3"),
        ({"placement": "disaggregated"}, "needs a process for each half"),
        ({"address": "10.0.0.1:6379"}, "joins no cluster"),
    ],
)
def test_what_needs_more_processes_is_refused(
    t5_folder: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Engine(str(t5_folder), ray=False, **options)


def test_parameters_for_all_prompts_or_for_each(t5: Engine) -> None:
    prompts, params = (
        ["in words: 407"] * 2,
        [SamplingParams(max_tokens=1), SamplingParams(max_tokens=2)],
    )
    outputs = t5.generate(prompts, params, use_tqdm=False)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [1, 2]
    assert text(t5, sampling_params=SamplingParams(max_tokens=1)) == text(
        t5, params=SamplingParams(max_tokens=1)
    )
    for wrong, message in (
        ({"params": params[:1]}, "1 sampling parameters for 2 prompts"),
        ({"params": params, "sampling_params": params}, "are the same"),
        ({"params": {"max_tokens": 2}}, "must be SamplingParams, or a list of them; not dict"),
        ({"params": [1, 2]}, "must be SamplingParams"),
    ):
        with pytest.raises(SamplingError, match=message):
            t5.generate(prompts, use_tqdm=False, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("temperature", r"give params=SamplingParams\(temperature=\.\.\.\)"),
        ("num_beams", "beam_size"),
        ("priorty", "Did you mean 'priority'"),
        ("language", "give source_language and target_language"),
        ("nonsense", "Valid names: priority"),
    ],
)
def test_unknown_keywords_are_refused_by_name(t5: Engine, name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        t5.generate("in words: 1", use_tqdm=False, **{name: 1})
    with pytest.raises(ConfigurationError, match=message):
        next(t5.stream("in words: 1", **{name: 1}))


def test_params_of_another_type_are_refused(t5: Engine) -> None:
    with pytest.raises(
        SamplingError, match=r"not dict; a mapping becomes one by SamplingParams\.of"
    ):
        next(t5.stream("in words: 1", {"max_tokens": 3}))  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5", True])
def test_a_timeout_is_a_number_of_seconds(t5: Engine, timeout: Any) -> None:
    """Told once, before any prompt starts."""
    with pytest.raises(PromptError, match="timeout must be seconds"):
        t5.generate(["in words: 1", "in words: 2"], use_tqdm=False, timeout=timeout)
    with pytest.raises(PromptError, match="timeout must be seconds"):
        t5.generate_as_completed(["in words: 1"], timeout=timeout)


def test_parameters_for_all_prompts_are_checked_once(t5: Engine) -> None:
    outside = SamplingParams(stop_token_ids=(10**6,))
    with pytest.raises(SamplingError, match="token id 1000000; the vocabulary has"):
        t5.generate(["in words: 1", "in words: 2"], outside, use_tqdm=False)
    with pytest.raises(SamplingError, match="token id 1000000; the vocabulary has"):
        t5.generate_as_completed(["in words: 1"], outside)
    own = [outside, None]
    outputs = t5.generate(["in words: 1", "in words: 2"], own, use_tqdm=False)
    assert [output.error is None for output in outputs] == [False, True]


@pytest.mark.parametrize(
    "error",
    [TypeError("a type"), OSError("a file"), RuntimeError("a tensor"), ValueError("a value")],
)
def test_an_error_of_any_kind_is_that_inputs_alone(
    t5: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    read = t5._async.inputs.begin

    def odd(prompt: Any, *others: Any) -> Any:
        if prompt == "in words: 13":
            raise error
        return read(prompt, *others)

    monkeypatch.setattr(t5._async.inputs, "begin", odd)
    outputs = t5.generate([f"in words: {number}" for number in (12, 13, 14)], use_tqdm=False)
    assert [output.error is None for output in outputs] == [True, False, True]
    assert isinstance(outputs[1].error, RequestFailed)
    assert outputs[1].error.__cause__ is error


def test_a_request_that_cannot_be_sent_fails_alone(
    t5: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = t5._async.workers.send  # type: ignore[union-attr]

    def picky(worker: str, message: Message) -> None:
        match message:
            case Submit(requests) if any(request.max_tokens == 13 for request in requests):
                raise TypeError("cannot travel")
        send(worker, message)

    monkeypatch.setattr(t5._async.workers, "send", picky)
    params = [SamplingParams(max_tokens=count) for count in (12, 13, 14)]
    outputs = t5.generate(["in words: 5"] * 3, params, use_tqdm=False)
    assert [output.error is None for output in outputs] == [True, False, True]
    with pytest.raises(
        RequestFailed, match="could not be sent to its worker: TypeError: cannot travel"
    ):
        _ = outputs[1].outputs
    assert text(t5) == "forty two"
    assert not t5._async.requests


def test_text_that_cannot_be_decoded_ends_its_request_alone(
    t5: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = OpenRequests.__dict__["_receive_token"]
    broken: list[int] = []

    def receive(requests: OpenRequests, opened: Any, token: int) -> None:
        if opened.request.max_tokens == 13:
            broken.append(token)
            monkeypatch.setattr(opened.text, "add", lambda tokens: 1 / 0)
        add(requests, opened, token)

    monkeypatch.setattr(OpenRequests, "_receive_token", receive)
    params = [SamplingParams(max_tokens=count, stop=["xyz"]) for count in (12, 13)]
    outputs = t5.generate(["in words: 5"] * 2, params, use_tqdm=False)
    assert broken
    assert outputs[0].error is None
    assert isinstance(outputs[1].error, RequestFailed)
    assert "ZeroDivisionError" in str(outputs[1].error)
    assert text(t5) == "forty two"


def test_a_task_that_fails_ends_the_engine_and_every_open_request(
    own: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own._async.requests, "receive", lambda output: 1 / 0)
    with pytest.raises(EngineDeadError, match="the engine failed: ZeroDivisionError"):
        own.generate("in words: 1", use_tqdm=False)
    with pytest.raises(EngineDeadError, match="the engine failed"):
        own.generate("in words: 1", use_tqdm=False)


def test_a_worker_that_ends_ends_the_engine(own: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own.workers._actor.decoder, "run_once", lambda: 1 / 0)  # type: ignore[union-attr]
    until = time.monotonic() + 10
    while own._async._dead is None and time.monotonic() < until:
        time.sleep(0.02)
    with pytest.raises(EngineDeadError, match="a worker ended: ZeroDivisionError"):
        own.generate("in words: 1", use_tqdm=False)


def test_a_dead_engines_errors_do_not_grow(own: Engine) -> None:
    own.close()
    errors = []
    for _ in range(3):
        with pytest.raises(EngineDeadError, match="closed") as caught:
            own.generate("in words: 1", use_tqdm=False)
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 3
    assert len({len(caught.traceback) for error in errors}) == 1


def test_a_deadline_holds_though_the_worker_hangs(
    own: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def hang_once() -> None:
        monkeypatch.undo()
        released.wait(60)

    monkeypatch.setattr(own.workers._actor.decoder, "run_once", hang_once)  # type: ignore[union-attr]
    time.sleep(0.1)
    began = time.monotonic()
    (output,) = own.generate("in words: 1", use_tqdm=False, timeout=0.5)
    with pytest.raises(RequestExpired, match=r"after 0\.3 s"):
        list(own.stream("in words: 1", timeout=0.3))
    assert isinstance(output.error, RequestExpired)
    assert time.monotonic() - began < 20
    released.set()
    assert text(own) == "forty two"


def test_an_interrupted_call_cancels_what_it_began(own: Engine) -> None:
    results = own._loop_thread.as_completed(
        iter(
            [SamplingParams(ignore_eos=True, max_tokens=2)]
            + [SamplingParams(ignore_eos=True, max_tokens=400)] * 5
        ),
        lambda params: own._async.generate("in words: 9", params),
    )
    next(results)
    results.close()  # type: ignore[attr-defined]
    until = time.monotonic() + 10
    while own.stats()["open"] and time.monotonic() < until:
        time.sleep(0.02)
    assert own.stats()["open"] == 0
    assert own.stats()["cancelled"] == 5


def test_inputs_are_taken_as_the_engine_gets_to_them(
    t5: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.engine.loop_thread.MAX_IN_FLIGHT", 4)
    taken: list[int] = []

    def numbers() -> Iterator[str]:
        for number in range(50):
            taken.append(number)
            yield f"in words: {number}"

    results = t5._loop_thread.as_completed(numbers(), lambda prompt: t5._async.generate(prompt))
    next(results)
    assert len(taken) <= 6
    assert len(list(results)) == 49


def test_what_has_ended_keeps_no_sound(whisper_folder: Path) -> None:
    """Neither an answered request nor a cancelled one, nor an idle thread."""
    with Engine(str(whisper_folder), ray=False) as engine:
        samples = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
        held = weakref.ref(samples)
        assert not isinstance(engine.transcribe_all([(samples, 16_000)])[0], AntiphonError)
        del samples
        until = time.monotonic() + 5
        while held() is not None and time.monotonic() < until:
            gc.collect()
            time.sleep(0.05)
        assert held() is None


def test_another_loop_is_refused_and_the_engine_starts_again_in_it(t5_folder: Path) -> None:
    engine = AsyncEngine(str(t5_folder), ray=False)

    async def ask() -> str:
        return (await engine.generate("in words: 6")).outputs[0].text

    async def restart() -> str:
        await engine.close()
        await engine.start()
        answer = await ask()
        await engine.close()
        return answer

    with pytest.raises(EngineDeadError, match="has not been started"):
        asyncio.run(ask())
    asyncio.run(_started(engine))
    with pytest.raises(EngineDeadError, match="another event loop"):
        asyncio.run(ask())
    assert asyncio.run(restart()) == "six"


async def _started(engine: AsyncEngine) -> None:
    await engine.start()


async def _cancelled(engine: AsyncEngine) -> None:
    starting = asyncio.create_task(engine.start())
    await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def _without_threads(engine: AsyncEngine) -> None:
    """Workers are being started when no further thread is there for the warm-up."""
    with (
        patch.object(life, "_meanwhile", side_effect=RuntimeError("can't start new thread")),
        pytest.raises(RuntimeError, match="can't start"),
    ):
        await engine.start()


@pytest.mark.parametrize("give_up", [_cancelled, _without_threads])
def test_a_start_that_is_given_up_leaves_no_workers(
    t5_folder: Path, give_up: Callable[[AsyncEngine], Coroutine[Any, Any, None]]
) -> None:
    engine = AsyncEngine(str(t5_folder), ray=False)
    before = set(threading.enumerate())
    asyncio.run(give_up(engine))
    for _ in range(2):  # the start that had begun, and then the end of its workers
        for thread in set(threading.enumerate()) - before:
            thread.join(30)
    assert engine.workers is None
    assert set(threading.enumerate()) <= before


def test_hundreds_of_recordings_are_read_as_the_workers_get_to_them(
    whisper_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, done, most = 0, 0, 0
    rng = np.random.default_rng(0)

    def recordings() -> Iterator[np.ndarray]:
        nonlocal taken, most
        for _ in range(60):
            taken += 1
            most = max(most, taken - done)
            yield rng.standard_normal(8_000).astype(np.float32) * 0.1

    with Engine(str(whisper_folder), ray=False, device="cpu", max_num_seqs=2) as engine:
        params = SamplingParams(max_tokens=4)
        for _, result in engine.transcribe_as_completed(recordings(), language="en", params=params):
            assert not isinstance(result, Exception)
            done += 1
    assert done == 60
    assert most <= 6  # twice the slots, and those whose end is not yet told
