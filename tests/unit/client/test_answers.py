"""Answers in every format, limits of time, and keys that go into a header."""

import asyncio
import time
from typing import Any

import httpx
import pytest
from played_server import DONE, client, played

from antiphon.client import AsyncClient, Client, ConnectionFailed, ServerFailed
from antiphon.client.policy import Policy, headers


def asked(reply: httpx.Response, call: str, *arguments: Any, **options: Any) -> Any:
    async def ask() -> Any:
        answer, _ = played(reply)
        async with client(answer) as asking:
            return await getattr(asking, call)(*arguments, **options)

    return asyncio.run(ask())


@pytest.mark.parametrize("call", ["transcribe", "translate"])
@pytest.mark.parametrize("form", ["srt", "vtt", "text"])
def test_formats_that_are_no_json(call: str, form: str) -> None:
    content = "1\n00:00:00,000 --> 00:00:01,000\nschön\n"
    heard = asked(httpx.Response(200, text=content), call, b"RIFF", response_format=form)
    assert (heard.text, heard.segments) == (content, [])


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(200, text="<html>a portal's page</html>"),
        httpx.Response(200, text=""),
        httpx.Response(200, json=["no", "object"]),
        httpx.Response(200, json={"other": 1}),
        httpx.Response(200, json={"choices": [], "data": [{}], "segments": [1]}),
    ],
)
@pytest.mark.parametrize(
    "call", [("transcribe", b"RIFF"), ("generate", "x"), ("chat", "x"), ("models",)]
)
def test_an_answer_that_is_none_of_the_api(reply: httpx.Response, call: tuple[Any, ...]) -> None:
    with pytest.raises(ServerFailed, match="none of OpenAI's API"):
        asked(reply, *call)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<html>a portal's page</html>", "no stream of events"),
        ("", "no stream of events"),
        ("data: 5\n\n", "none of OpenAI's API"),
        ('data: {"choices": [{"delta": null}]}\n\n', "none of OpenAI's API"),
        ('data: {"choices": 7}\n\n', "none of OpenAI's API"),
        ('data: {"error": "the worker died"}\n\n', "the worker died"),
        ('data: {"object": "error", "message": "the worker died"}\n\n', "the worker died"),
    ],
)
def test_a_stream_that_is_none_of_the_api(content: str, message: str) -> None:
    async def ask() -> None:
        answer, _ = played(httpx.Response(200, text=content))
        async with client(answer) as asking:
            async for _ in asking.stream("x"):
                pass

    with pytest.raises(ServerFailed, match=message):
        asyncio.run(ask())


def test_log_probabilities_are_kept() -> None:
    given = {"tokens": ["se", "ven"], "token_logprobs": [-0.1, -0.2]}
    choice = {**DONE["choices"][0], "logprobs": given}  # type: ignore[index]
    reply = httpx.Response(200, json={"choices": [choice, *DONE["choices"]]})  # type: ignore[misc]
    assert asked(reply, "generate", "x", logprobs=1).logprobs == [given, None]
    heard = httpx.Response(200, json={"text": "x", "logprobs": [{"token": "x", "logprob": -0.5}]})
    options = {"response_format": "json", "include": ["logprobs"]}
    assert asked(heard, "transcribe", b"RIFF", **options).logprobs == [
        {"token": "x", "logprob": -0.5}
    ]


def dripping(seconds: float, pieces: int) -> Any:
    """A server whose answer comes byte by byte, and its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % pieces)
        try:
            for _ in range(pieces):
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(seconds)
        except ConnectionError:
            pass
        finally:
            writer.close()

    return asyncio.start_server(serve, "127.0.0.1", 0)


def test_the_timeout_is_of_a_whole_attempt() -> None:
    async def ask() -> float:
        async with await dripping(0.02, 500) as server:
            port = server.sockets[0].getsockname()[1]
            policy = Policy(timeout=0.3, retries=0)
            async with AsyncClient(f"127.0.0.1:{port}", policy=policy) as asking:
                began = time.monotonic()
                with pytest.raises(ConnectionFailed, match=r"within 0\.3 seconds"):
                    await asking.models()
                return time.monotonic() - began

    assert asyncio.run(ask()) < 5  # all of the answer takes 10


@pytest.mark.parametrize("key", ["s3cret", " s3cret", "s3cret\n", "\ts3cret\r\n"])
def test_blanks_around_a_key_are_no_part_of_it(key: str) -> None:
    assert headers(key) == {"authorization": "Bearer s3cret"}


def test_no_key() -> None:
    assert headers(None) == headers("") == headers(" \n") == {}


@pytest.mark.parametrize("key", ["s3cr\net", "s3cr\0et", "s3crét", "s3cr\udcc3et", 53, b"s3cret"])
def test_keys_that_no_header_holds_are_refused_without_showing_them(key: Any) -> None:
    with pytest.raises(ValueError, match=r"^api_key must be") as caught:
        Client("http://127.0.0.1:9", api_key=key)
    assert "s3cr" not in str(caught.value)
    assert "53" not in str(caught.value)
