"""Both clients against a running server: every call, every form of sound, and what passes."""

import asyncio
import socket
import threading
import time
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from http_server import Running, running_server
from paths import RECORDINGS

from antiphon.client import AsyncClient, Client, RequestRejected, TooBusy
from antiphon.client.policy import Policy
from antiphon.serve.settings import Limits

CALL, WECKER = RECORDINGS / "call.wav", RECORDINGS / "wecker.wav"
CALL_TEXT = "call seven nine zero"
QUICK = Policy(pause=0.01)


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Client]:
    with Client(server.url, policy=QUICK, model="numbers") as client:
        yield client


def samples() -> tuple[np.ndarray, int]:
    with wave.open(str(CALL)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16), file.getframerate()


def test_recordings_in_every_form(client: Client) -> None:
    values, rate = samples()
    with CALL.open("rb") as file:
        forms = [CALL, str(CALL), CALL.read_bytes(), file, (values, rate), (values / 32768, rate)]
        texts = [client.transcribe(form, model="hears").text for form in forms]
    assert texts == [CALL_TEXT] * len(forms)


def test_calls(client: Client) -> None:
    assert [model.id for model in client.models()] == ["hears", "numbers", "sees"]
    heard = client.transcribe(WECKER, model="hears")
    assert (heard.language, heard.text) == ("german", "wecke mich morgen um vier")
    assert heard.segments[0].end > heard.segments[0].start >= 0
    translated = client.translate(WECKER, model="hears")
    assert translated.text == "wake me up tomorrow at four"
    completion = client.generate("in words: 42", max_tokens=20)
    assert (completion.text, completion.finish_reason) == ("forty two", "stop")
    assert completion.completion_tokens > 1
    assert client.chat("in words: 7").text == "seven"
    with pytest.raises(RequestRejected) as caught:
        client.generate("in words: 1", best_of=3)
    assert (caught.value.status, caught.value.param) == (400, "best_of")
    assert caught.value.request_id is not None


def test_streams(client: Client) -> None:
    words = list(client.stream("in words: 4711"))
    assert len(words) > 1
    assert "".join(words) == "four thousand seven hundred eleven"
    assert "".join(client.stream_chat("in words: 42")) == "forty two"
    assert "".join(client.stream_transcription(CALL, model="hears")) == CALL_TEXT


def test_a_stream_that_is_left_ends_its_request(server: Running, client: Client) -> None:
    stream = client.stream("in words: 1", ignore_eos=True, max_tokens=500)
    assert next(stream) is not None
    stream.close()  # type: ignore[attr-defined]
    end = time.monotonic() + 30
    while server.service.admission.open:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_batches(client: Client, tmp_path: Path) -> None:
    numbers = {"7": "seven", "8": "eight", "42": "forty two", "100": "one hundred"}
    prompts = [f"in words: {number}" for number in numbers]
    file = str(tmp_path / "results.jsonl")
    for resumed in (False, True):
        items = client.batch(prompts, task="generate", concurrency=2, output=file)
        results = {item.index: item for item in items}
        texts = [results[index].result.text for index in range(len(prompts))]
        assert texts == list(numbers.values())
        assert {item.resumed for item in results.values()} == {resumed}


def test_the_asynchronous_client(server: Running) -> None:
    async def ask() -> list[str]:
        async with AsyncClient(server.url, policy=QUICK) as client:
            calls = [client.generate(f"in words: {n}", model="numbers") for n in (7, 8, 9)]
            heard = client.transcribe(CALL, model="hears")
            return [result.text for result in await asyncio.gather(*calls, heard)]

    assert asyncio.run(ask()) == ["seven", "eight", "nine", CALL_TEXT]


@contextmanager
def half_sent(server: Running) -> Iterator[None]:
    """A request that stays open because its body does not end."""
    url, before = httpx.URL(server.url), server.service.admission.open
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"
            b"content-length: 100\r\n\r\n"
        )
        while server.service.admission.open == before:
            time.sleep(0.001)
        yield


def test_busy_and_stopping_servers_are_asked_again(t5_folder: Path) -> None:
    models = {"numbers": str(t5_folder)}
    with running_server(models, Limits(open_requests=1)) as server, ThreadPoolExecutor(1) as pool:
        admission = server.service.admission
        with Client(server.url, policy=QUICK) as client:
            with half_sent(server):
                answer = pool.submit(client.generate, "in words: 7")
                while not admission.turned_away:
                    time.sleep(0.001)
            assert answer.result(60).text == "seven"
            admission.draining = True
            answer = pool.submit(client.generate, "in words: 8")
            time.sleep(0.2)
            admission.draining = False
            assert answer.result(60).text == "eight"
        with (
            half_sent(server),
            Client(server.url, policy=Policy(retries=0)) as client,
            pytest.raises(TooBusy) as caught,
        ):
            client.generate("in words: 7")
        assert caught.value.status == 429


def pump(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(1 << 16):
        target.sendall(data)


@contextmanager
def unreliable(url: str, num_lost: int) -> Iterator[str]:
    """An address in front of `url`, where the first connections break off once they were used."""
    target = httpx.URL(url)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for number in range(num_lost + 1):
                connection, _ = listener.accept()
                with connection:
                    if number < num_lost:
                        connection.recv(1)
                        continue
                    with socket.create_connection((target.host, target.port)) as server:
                        up = threading.Thread(target=pump, args=(connection, server), daemon=True)
                        up.start()
                        pump(server, connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_lost_connections_are_made_again(server: Running) -> None:
    with (
        unreliable(server.url, num_lost=2) as url,
        Client(url, policy=QUICK, model="numbers") as client,
    ):
        assert client.generate("in words: 7").text == "seven"
