"""Odd requests: each is answered for what it is, with the name of what is wrong in it."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from http_server import Running
from paths import RECORDINGS

COMPLETIONS, CHATS, TOKENIZE = "/v1/completions", "/v1/chat/completions", "/tokenize"
SOUND = "/v1/audio/transcriptions"
LONE = "\ud800"  # half of a surrogate pair, which JSON can hold and UTF-8 cannot
NUMBERS = {"model": "numbers", "prompt": "in words: 7"}
TEXT = {"type": "text", "text": "w7"}
URL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
PIXEL = {"type": "image_url", "image_url": {"url": URL}}
WAV = {"data": base64.b64encode((RECORDINGS / "call.wav").read_bytes()).decode()}
WAV_PART = {"type": "input_audio", "input_audio": WAV}
CALLED = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
# What openai's client sends back of an answer, and asks for nothing.
ANSWERED = {"refusal": None, "annotations": [], "audio": None, "tool_calls": None}
NOTHING = {"n": 1, "logprobs": False, "max_tokens": None, "stop": [], "min_tokens": 0}
NOISE = {"type": "input_audio", "input_audio": {"data": "AAAA"}}


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    headers = {"content-type": "application/json"}
    return client.post(path, content=json.dumps(body).encode(), headers=headers)


def chat(*parts: dict[str, Any], model: str = "sees", **fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": list(parts), **fields}
    limit = {} if model == "hears" else {"max_tokens": 2}
    return {"model": model, **limit, "messages": [message]}


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    (COMPLETIONS, {**NUMBERS, "prompt": LONE}, "prompt", "half of a surrogate pair"),
    (COMPLETIONS, {**NUMBERS, "prompt": "7 " * 10**6}, "prompt", "is too long: its first"),
    (TOKENIZE, {"model": "numbers", "prompt": "7" * (2**18 + 1)}, "prompt", "at most 262144 at"),
    (TOKENIZE, {"model": "numbers", "prompt": LONE}, "prompt", "half of a surrogate pair"),
    (CHATS, chat({"type": "text", "text": LONE}), "messages", "half of a surrogate pair"),
    (COMPLETIONS, {**NUMBERS, LONE: 1}, LONE, "there is no field"),
    (COMPLETIONS, {**NUMBERS, "logit_bias": {"seven": 1}}, "logit_bias", "has 'seven' where"),
    (COMPLETIONS, {**NUMBERS, "logit_bias": {"1.0": 1}}, "logit_bias", "has '1.0' where"),
    (COMPLETIONS, {**NUMBERS, "logit_bias": {"-1": 1}}, "logit_bias", "has token id -1"),
    (COMPLETIONS, {**NUMBERS, "stop": ["a"] * 17}, "stop", "17 texts: give at most 16"),
    (COMPLETIONS, {**NUMBERS, "stop": ["a", LONE]}, "stop", "without halves of surrogate pairs"),
    (COMPLETIONS, {**NUMBERS, "priority": 10**12}, "priority", "priority must be between"),
    (COMPLETIONS, {**NUMBERS, "source_language": "en"}, "source_language", "knows no languages"),
    (
        CHATS,
        chat({**TEXT, "image_url": {"url": URL}}),
        "messages.0.content.0",
        "is of type 'text' and has 'image_url', too",
    ),
    (
        CHATS,
        chat(TEXT, {**PIXEL, "text": "w7"}),
        "messages.0.content.1",
        "is of type 'image_url' and has 'text', too",
    ),
    (CHATS, chat(TEXT, model="numbers", name="Ada"), "messages.0.name", "knows no participants"),
    (CHATS, chat(NOISE, model="hears", name="Ada"), "messages.0.name", "knows no participants"),
    (CHATS, chat(TEXT, name="Ada"), "messages.0.name", "leaves names out"),
    (CHATS, chat(NOISE, model="hears"), "messages", "not readable as audio"),
    (CHATS, chat(WAV_PART, model="hears") | {"n": 2}, "n", "one text each"),
    (CHATS, chat({**TEXT, "cache_control": 1}), "messages.0.content.0.cache_control", "no field"),
    (CHATS, chat(TEXT, tool_calls=[CALLED]), "messages.0.tool_calls", "call no tools"),
    (CHATS, chat(TEXT, **{LONE: 1}), f"messages.0.{LONE}", "there is no field"),
    (CHATS, chat(TEXT) | {"max_completion_tokens": 9999}, "max_completion_tokens", "lower max_co"),
    (COMPLETIONS, {**NUMBERS, "max_tokens": 9999}, "max_tokens", "max_tokens=9999 are over"),
    (COMPLETIONS, {**NUMBERS, "min_tokens": 9999}, "min_tokens", "min_tokens=9999 are over"),
    (COMPLETIONS, {**NUMBERS, "prompt": [-1]}, "prompt.0", "greater than or equal to 0"),
    (COMPLETIONS, {**NUMBERS, "prompt": {"encoder_prompt": "", "x": 1}}, "prompt.x", "no field"),
    (COMPLETIONS, {**NUMBERS, "logit_bias": {"03": 1, "3": 2}}, "logit_bias", "has '03' where"),
    (COMPLETIONS, {**NUMBERS, "stream": True, "stream_options": {"x": 1}}, "stream_options.x", "x"),
]


@pytest.mark.parametrize(("path", "body", "param", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_named(
    client: httpx.Client, path: str, body: dict[str, Any], param: str, message: str
) -> None:
    reply = post(client, path, body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == param
    assert message in error["message"]


@pytest.mark.parametrize("path", [COMPLETIONS, CHATS, TOKENIZE])
@pytest.mark.parametrize("close", ["", "]"])
def test_brackets_within_each_other(client: httpx.Client, path: str, close: str) -> None:
    content = "[" * 100_000 + close * 100_000
    for body in (content, f'{{"prompt": {content}}}'):
        reply = client.post(path, content=body, headers={"content-type": "application/json"})
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")


def test_no_such_model(client: httpx.Client) -> None:
    reply = post(client, COMPLETIONS, {**NUMBERS, "model": LONE})
    assert (reply.status_code, reply.json()["error"]["param"]) == (404, "model")


@pytest.mark.parametrize("content", [b"no sound", b"ffconcat version 1.0\nfile x.wav\n"])
def test_files_that_are_no_recordings(client: httpx.Client, content: bytes) -> None:
    for stream in ("false", "true"):
        files, data = {"file": ("x.wav", content)}, {"model": "hears", "stream": stream}
        reply = client.post(SOUND, files=files, data=data)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "file")


RIGHT: list[tuple[str, dict[str, Any]]] = [
    (COMPLETIONS, {**NUMBERS, "stop": "a stop of more than 16 letters"}),
    (COMPLETIONS, {**NUMBERS, "stop": ["a stop"] * 16}),
    (COMPLETIONS, {**NUMBERS, "user": LONE}),
    (TOKENIZE, {"model": "numbers", "prompt": "7" * 2**18}),
    (COMPLETIONS, {**NUMBERS, "logit_bias": {"3": 1}}),
    (CHATS, chat({**TEXT, "image_url": None})),
    (CHATS, chat({"type": "input_audio", "input_audio": {**WAV, "format": "mp3"}}, model="hears")),
    (CHATS, chat(WAV_PART, model="hears") | NOTHING),
    (CHATS, chat(PIXEL, TEXT)),
    (CHATS, chat(TEXT, **ANSWERED, function_call=None)),
    (CHATS, chat()),
    (COMPLETIONS, {**NUMBERS, "stream": True, "stream_options": {"include_usage": None}}),
]


@pytest.mark.parametrize(("path", "body"), RIGHT, ids=range(len(RIGHT)))
def test_what_is_odd_and_right(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    reply = post(client, path, body)
    assert reply.status_code == 200, reply.text


def test_a_body_that_is_no_json_object(client: httpx.Client) -> None:
    """As curl -d sends it, for one."""
    for kind, content in (("text/plain", b"{}"), ("application/json", b"[]")):
        reply = client.post(COMPLETIONS, content=content, headers={"content-type": kind})
        assert reply.status_code == 400
        assert "'content-type: application/json'" in reply.json()["error"]["message"]


def test_types_of_content_have_no_case(client: httpx.Client) -> None:
    files, data = {"file": ("x.wav", (RECORDINGS / "call.wav").read_bytes())}, {"model": "hears"}
    request = client.build_request("POST", SOUND, files=files, data=data)
    kind = request.headers["content-type"].replace("multipart/form-data", "Multipart/Form-Data")
    reply = client.post(SOUND, content=request.read(), headers={"content-type": kind})
    assert reply.json()["text"] == "call seven nine zero"


def test_at_least_so_many_tokens_are_more_than_the_checkpoint_allows(client: httpx.Client) -> None:
    """It makes 63 by itself."""
    reply = post(client, COMPLETIONS, {**NUMBERS, "min_tokens": 100})
    assert reply.json()["usage"]["completion_tokens"] == 100


def test_names_of_files_say_nothing(client: httpx.Client) -> None:
    """Neither paths nor kinds of media are taken from them."""
    recording = (RECORDINGS / "call.wav").read_bytes()
    files = {"file": ("../../etc/passwd", recording, "text/html")}
    reply = client.post(SOUND, files=files, data={"model": "hears"})
    assert reply.json()["text"] == "call seven nine zero"
