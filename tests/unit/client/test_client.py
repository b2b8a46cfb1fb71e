"""The client against a server of a few lines: retries, streams, uploads, batches."""

import asyncio
import json
import math
import subprocess
import sys
import wave
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from blocked_imports import blocking
from played_server import DONE, client, failing, played

from antiphon.client import (
    AuthenticationError,
    ClientError,
    ConnectionFailed,
    RequestRejected,
    ServerFailed,
    TooBusy,
    Word,
)
from antiphon.client.calls import sound_call
from antiphon.client.policy import Policy, base_of
from antiphon.client.sound import content_of


@pytest.mark.parametrize("server", ["h:1", "http://h:1", "http://h:1/", "http://h:1/v1"])
def test_addresses(server: str) -> None:
    assert base_of(server) == "http://h:1/v1"


@pytest.mark.parametrize("server", ["", "http://", "nope://h", "http://h:99999", "http://[::1"])
def test_what_is_no_address(server: str) -> None:
    with pytest.raises(ValueError, match="is no address such as http://host:8000"):
        base_of(server)


def test_a_completion() -> None:
    async def ask() -> None:
        answer, requests = played(httpx.Response(200, json=DONE))
        async with client(answer, api_key="secret", model="m") as asking:
            result = await asking.generate("in words: 7", max_tokens=5, seed=None)
        assert (result.text, result.finish_reason, result.prompt_tokens) == ("seven", "stop", 4)
        assert requests[0].headers["authorization"] == "Bearer secret"
        assert json.loads(requests[0].content) == {
            "prompt": "in words: 7", "model": "m", "max_tokens": 5,
        }  # fmt: skip

    asyncio.run(ask())


@pytest.mark.parametrize(
    "trouble", [failing(429), failing(503), httpx.ConnectError("no"), httpx.ReadError("broken")]
)
def test_what_passes_is_tried_again(trouble: Any) -> None:
    async def ask() -> None:
        answer, requests = played(trouble, trouble, httpx.Response(200, json=DONE))
        async with client(answer) as asking:
            assert (await asking.generate("x")).text == "seven"
        assert len(requests) == 3

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("trouble", "kind", "times"),
    [
        (failing(429), TooBusy, 3),
        (httpx.ConnectError("no"), ConnectionFailed, 3),
        (failing(400), RequestRejected, 1),
        (failing(401), AuthenticationError, 1),
        (failing(500), ServerFailed, 1),
        (httpx.Response(502, text="a proxy's page"), ServerFailed, 1),
    ],
)
def test_errors(trouble: Any, kind: type[ClientError], times: int) -> None:
    async def ask() -> None:
        answer, requests = played(*[trouble] * times)
        async with client(answer, Policy(pause=0.001, retries=2)) as asking:
            with pytest.raises(kind) as caught:
                await asking.generate("x")
        assert len(requests) == times
        if isinstance(trouble, httpx.Response) and trouble.status_code != 502:
            assert (caught.value.param, caught.value.code) == ("n", "c")

    asyncio.run(ask())


def test_pauses_double_within_bounds_and_obey_the_server() -> None:
    policy = Policy(pause=1.0, retries=9)
    busy = TooBusy("busy")
    for attempt in range(9):
        longest = min(60.0, 2.0**attempt)
        pause = policy.delay(attempt, busy, None)
        assert pause is not None
        assert longest / 2 <= pause <= longest
    assert policy.delay(0, busy, 7.0) == 7.0
    assert policy.delay(9, busy, 7.0) is None


def events(*items: Any) -> httpx.Response:
    lines = [f"data: {json.dumps(item)}\n\n" for item in items]
    return httpx.Response(200, text="".join([*lines, "data: [DONE]\n\n"]))


def test_streams() -> None:
    async def ask() -> None:
        texts = [{"choices": [{"text": text}]} for text in ("fo", "ur")]
        answer, requests = played(failing(503), events(*texts, {"choices": []}))
        async with client(answer) as asking:
            assert [text async for text in asking.stream("x")] == ["fo", "ur"]
        assert len(requests) == 2
        sound = {"type": "transcript.text.delta", "delta": "hello"}
        answer, _ = played(events(sound, {"type": "transcript.text.done", "text": "hello"}))
        async with client(answer) as asking:
            assert [text async for text in asking.stream_transcription(b"RIFF")] == ["hello"]
        answer, _ = played(events(texts[0], {"error": {"message": "the worker died"}}))
        async with client(answer) as asking:
            stream = asking.stream("x")
            assert await anext(stream) == "fo"
            with pytest.raises(ServerFailed, match="the worker died"):
                await anext(stream)

    asyncio.run(ask())


def test_uploads(tmp_path: Path) -> None:
    path = tmp_path / "a sound.wav"
    path.write_bytes(b"content")
    assert content_of(path) == ("a sound.wav", b"content")
    assert content_of(str(path)) == ("a sound.wav", b"content")
    assert content_of(b"content") == ("audio", b"content")
    with path.open("rb") as file:
        assert content_of(file) == ("a sound.wav", b"content")
    for sound in (np.array([0, 1000, -1000], np.int16), [0, 1000, -1000]):
        _, content = content_of((sound, 8000))
        with wave.open(BytesIO(content)) as file:
            assert (file.getframerate(), file.getnframes(), file.getsampwidth()) == (8000, 3, 2)
            assert np.frombuffer(file.readframes(3), np.int16).tolist() == [0, 1000, -1000]
    _, content = content_of(np.array([0.0, 0.5], np.float32))
    assert content[20:22] == b"\x03\x00"
    assert np.frombuffer(content[-8:], np.float32).tolist() == [0.0, 0.5]
    wave_of = (0.1 * np.sin(np.arange(1000))).astype(np.float32)
    for array in (wave_of, wave_of[::2], (wave_of * 32767).astype(np.int16), wave_of.astype(">f4")):
        assert content_of(array) == content_of(array.tolist())
    for wrong in (np.zeros((2, 3)), [], ["a"], [70_000]):
        with pytest.raises(ValueError, match="samples"):
            content_of(wrong)


def test_a_batch_goes_on_where_it_stopped(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        prompt = json.loads(request.content)["prompt"]
        asked.append(prompt)
        if prompt == "bad":
            return failing(400)
        return httpx.Response(200, json={"choices": [{"text": prompt.upper()}]})

    async def run(inputs: list[str]) -> dict[int, Any]:
        seen: list[tuple[int, int | None]] = []
        async with client(answer) as asking:
            items = asking.batch(
                inputs, task="generate", concurrency=2, output=str(tmp_path / "results"),
                progress=lambda *numbers: seen.append(numbers),
            )  # fmt: skip
            results = {item.index: item async for item in items}
        assert seen == [(number + 1, len(inputs)) for number in range(len(inputs))]
        return results

    first = asyncio.run(run(["a", "bad", "c"]))
    assert [first[index].result and first[index].result.text for index in range(3)] == [
        "A", None, "C",
    ]  # fmt: skip
    assert isinstance(first[1].error, RequestRejected)
    asked.clear()
    with (tmp_path / "results").open("a") as file:
        file.write('{"key": "half a li')  # the machine crashed here
    second = asyncio.run(run(["a", "bad", "c", "d"]))
    assert sorted(asked) == ["bad", "d"]
    assert [second[index].resumed for index in range(4)] == [True, False, True, False]
    assert second[2].result == first[2].result
    assert len((tmp_path / "results").read_text().splitlines()) == 3


def test_a_batch_sends_no_more_than_it_may_at_a_time() -> None:
    open_now, most = 0, 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0.001)
        open_now -= 1
        return httpx.Response(200, json=DONE)

    async def run() -> None:
        async with client(answer) as asking:  # type: ignore[arg-type]
            items = asking.batch((str(n) for n in range(20)), task="generate", concurrency=3)
            assert sorted([item.index async for item in items]) == list(range(20))

    asyncio.run(run())
    assert most == 3


def test_recordings_are_what_the_engine_takes_them_for() -> None:
    assert content_of(memoryview(b"content")) == ("audio", b"content")
    few = np.array([0.0, 0.5], np.float32)
    assert content_of(list(few)) == content_of(few)
    assert content_of(list(np.array([0, 9], np.int16))) == content_of([0, 9])
    _, content = content_of((np.array([128, 255, 0], np.uint8), 8000))  # as in 8-bit WAV
    with wave.open(BytesIO(content)) as file:
        assert (file.getsampwidth(), file.readframes(3)) == (1, b"\x80\xff\x00")
    for rate in (0, -1, 10**12, math.nan, None, "fast"):
        with pytest.raises(ValueError, match="the rate must be"):
            content_of((few, rate))


def test_a_mapping_in_a_form_is_json() -> None:
    strategy = {"type": "server_vad", "threshold": 0.4}
    call = sound_call("transcriptions", b"content", {"chunking_strategy": strategy})
    assert json.loads((call.form or {})["chunking_strategy"]) == strategy


def test_an_iterator_of_inputs_that_fails_ends_the_batch() -> None:
    def inputs() -> Any:
        yield "a"
        raise RuntimeError("the disk is gone")

    async def run() -> None:
        async with client(lambda _: httpx.Response(200, json=DONE)) as asking:
            async for _ in asking.batch(inputs(), task="generate"):
                pass

    with pytest.raises(RuntimeError, match="the disk is gone"):
        asyncio.run(run())


def test_the_client_imports_nothing_heavy() -> None:
    code = f"""
{blocking("torch", "ray", "transformers", "numpy", "pydantic", "fastapi")}
import time
import httpx  # not ours
began = time.process_time()
import antiphon.client
print(time.process_time() - began)
assert antiphon.client.Client and antiphon.client.AsyncClient
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.3


def test_words_of_a_transcript_also_in_a_batch_that_goes_on(tmp_path: Path) -> None:
    word = {"word": " call", "start": 0.1, "end": 0.4, "probability": 0.9}
    reply = {
        "text": "call",
        "words": [{**word, "word": "call"}],
        "segments": [{"start": 0.0, "end": 0.5, "text": "call", "words": [word]}],
    }
    answer, requests = played(httpx.Response(200, json=reply))

    async def ask() -> list[Any]:
        async with client(answer, model="m") as asking:
            items = asking.batch(
                [b"RIFF"], task="transcribe", output=tmp_path / "results.jsonl",
                timestamp_granularities=["word", "segment"],
            )  # fmt: skip
            return [item.result async for item in items]

    (first,), (again,) = asyncio.run(ask()), asyncio.run(ask())
    assert first == again
    assert len(requests) == 1
    assert b'name="timestamp_granularities[]"' in requests[0].content
    assert [part.text for part in first.words] == ["call"]
    assert first.segments[0].words[0] == Word(0.1, 0.4, " call", 0.9)
