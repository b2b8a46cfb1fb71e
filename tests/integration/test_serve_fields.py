"""Limits of single fields and of tokens, each just under and just over it."""

from typing import Any

import httpx
import pytest
from http_server import Running
from paths import RECORDINGS

CALL = RECORDINGS / "call.wav"
QUESTION = [{"role": "user", "content": "in words: 7"}]


def post(server: Running, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json={"model": "numbers", **body}, timeout=60)


@pytest.mark.parametrize(
    ("field", "under", "over"),
    [
        ("n", 128, 129),
        ("n", 1, 0),
        ("temperature", 2, 2.01),
        ("temperature", 0, -0.01),
        ("top_p", 1, 1.01),
        ("presence_penalty", 2, 2.01),
        ("frequency_penalty", -2, -2.01),
        ("max_tokens", 1, 0),
        ("logprobs", 20, 21),
        ("stop", ["no"] * 16, ["no"] * 17),
        ("timeout", 60, 0),
    ],
)
def test_fields_of_completions(server: Running, field: str, under: Any, over: Any) -> None:
    body = {"prompt": "in words: 7", "max_tokens": 1, "temperature": 1}
    assert post(server, "/v1/completions", {**body, field: under}).status_code == 200
    reply = post(server, "/v1/completions", {**body, field: over})
    assert reply.status_code == 400
    assert field in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("field", "under", "over"), [("top_logprobs", 20, 21), ("max_completion_tokens", 1, 0)]
)
def test_fields_of_chats(server: Running, field: str, under: Any, over: Any) -> None:
    body = {"messages": QUESTION, "logprobs": True}
    assert post(server, "/v1/chat/completions", {**body, field: under}).status_code == 200
    reply = post(server, "/v1/chat/completions", {**body, field: over})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)


def test_tokens_of_a_prompt_and_of_an_answer(server: Running) -> None:
    model = server.service.models["numbers"].engine.inputs.model

    def status(num_prompt: int, num_answer: int) -> int:
        body = {"prompt": [num_prompt * [5]], "max_tokens": num_answer, "ignore_eos": True}
        return post(server, "/v1/completions", body).status_code

    longest = model.max_encoder_len
    assert (status(longest, 1), status(longest + 1, 1)) == (200, 400)
    longest = model.max_decoder_len - 1  # behind the start token
    assert (status(1, longest), status(1, longest + 1)) == (200, 400)


@pytest.mark.parametrize(("num_fields", "status"), [(64, 200), (65, 400)])
def test_fields_of_a_form(server: Running, num_fields: int, status: int) -> None:
    form = {
        "response_format": "verbose_json",
        "timestamp_granularities[]": ["segment"] * (num_fields - 1),
    }
    reply = httpx.post(
        f"{server.url}/v1/audio/transcriptions", data=form, timeout=60,
        files={"file": CALL.read_bytes()},
    )  # fmt: skip
    assert reply.status_code == status


@pytest.mark.parametrize(("temperature", "status"), [("1", 200), ("1.01", 400), ("-0.01", 400)])
def test_the_temperature_of_a_transcription(server: Running, temperature: str, status: int) -> None:
    reply = httpx.post(
        f"{server.url}/v1/audio/transcriptions", data={"temperature": temperature}, timeout=60,
        files={"file": CALL.read_bytes()},
    )  # fmt: skip
    assert reply.status_code == status
