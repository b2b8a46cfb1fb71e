"""Text over HTTP, asked by OpenAI's own client."""

from functools import partial
from typing import Any

import httpx
import openai
import pytest
from http_server import Running

from antiphon.client import Client


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["hears", "numbers", "sees"]
    assert client.models.retrieve("numbers").owned_by == "antiphon"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("another")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_completions(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="numbers", prompt="in words: 42")
    assert reply.choices[0].text == "forty two"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.completion_tokens > 1


def test_a_stream_counts_what_the_whole_text_counts(client: openai.OpenAI) -> None:
    """The token that ends a text, too."""
    counted: Any = {"stream": True, "stream_options": {"include_usage": True}}
    for more in ({}, {"stop": "two"}, {"max_tokens": 1}):
        ask = partial(client.completions.create, model="numbers", prompt="in words: 42", **more)
        whole = ask().usage
        assert [chunk.usage for chunk in ask(**counted)][-1] == whole
        talk = partial(client.chat.completions.create, model="numbers", **more)
        talk = partial(talk, messages=question("in words: 42"))
        assert [chunk.usage for chunk in talk(**counted)][-1] == talk().usage == whole


@pytest.mark.parametrize("number", [42, 4711, 7])
@pytest.mark.parametrize("skips", [True, False])
def test_offsets_are_those_of_the_text(client: openai.OpenAI, number: int, skips: bool) -> None:
    """Also where the text has a blank that its token's own text lacks, and behind an echo."""
    ask = partial(client.completions.create, model="numbers", logprobs=1)
    ask = partial(ask, prompt=f"in words: {number}", extra_body={"skip_special_tokens": skips})
    for echo in (False, True):
        (choice,) = ask(echo=echo).choices
        found = choice.logprobs
        assert found is not None
        assert found.tokens is not None
        assert found.text_offset is not None
        pairs = list(zip(found.tokens, found.text_offset, strict=True))
        shown = pairs if not skips else pairs[:-1]
        for token, offset in shown:
            assert choice.text[offset:].startswith(token), (choice.text, pairs)
        assert found.text_offset == sorted(found.text_offset)
        assert found.text_offset[0] == (len(f"in words: {number}") if echo else 0)
        if skips:
            assert found.text_offset[-1] == len(choice.text)


def test_several_prompts_and_forms(client: openai.OpenAI) -> None:
    prompts = [f"in words: {number}" for number in (7, 8, 9)]
    reply = client.completions.create(model="numbers", prompt=prompts, echo=True)
    assert [choice.text for choice in reply.choices] == [
        "in words: 7seven", "in words: 8eight", "in words: 9nine",
    ]  # fmt: skip


def test_what_the_decoder_begins_with(client: openai.OpenAI, server: Running) -> None:
    engine = server.service.models["numbers"].engine
    ids = engine.inputs.tokenizer
    text, begin = "in words: 4711", "four thousand"
    pairs: list[dict[str, Any]] = [
        {"encoder_prompt": text, "decoder_prompt": begin},
        {"encoder_prompt": text},
        {
            "encoder_prompt": ids(text).input_ids,
            "decoder_prompt": ids(begin, add_special_tokens=False).input_ids,
        },
    ]
    ask = partial(client.completions.create, model="numbers", seed=1)
    replies = [ask(prompt=pair, echo=True) for pair in pairs]  # type: ignore[arg-type]
    begun, whole, same = (reply.choices[0].text for reply in replies)
    assert whole == f"{text}four thousand seven hundred eleven"
    assert begun == same == whole
    spent = [reply.usage.prompt_tokens for reply in replies]
    assert spent[0] == spent[2] > spent[1]
    reply = ask(prompt=pairs)  # type: ignore[arg-type]
    assert [choice.text for choice in reply.choices][1] == whole.removeprefix(text)
    chunks = list(ask(prompt=pairs[0], echo=True, stream=True))  # type: ignore[arg-type]
    assert "".join(chunk.choices[0].text for chunk in chunks) == begun
    with Client(server.url, model="numbers") as own:
        assert own.generate(pairs[0]).text == "seven hundred eleven"


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ({"decoder_prompt": "four"}, "prompt.encoder_prompt"),
        ({"encoder_prompt": {"prompt": "a"}}, "prompt.encoder_prompt"),
        ({"encoder_prompt": "a", "image": 1}, "prompt.image"),
        ({"encoder_prompt": [10**9]}, "prompt"),
        ({"encoder_prompt": "a", "decoder_prompt": [10**9]}, "prompt"),
        (7, "prompt"),
    ],
)
def test_wrong_pairs(server: Running, prompt: object, param: str) -> None:
    body = {"model": "numbers", "prompt": prompt}
    answer = httpx.post(f"{server.url}/v1/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_streamed_completion_is_the_whole_one(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model="numbers",
        prompt="in words: 4711",
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    assert len(chunks) >= 2
    text = "".join(chunk.choices[0].text for chunk in chunks)
    assert text == "four thousand seven hundred eleven"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + [
        "stop"
    ]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens > 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"best_of": 3}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"n": 2, "stream": True, "temperature": 1}, "n"),
        ({"extra_body": {"colour": "red"}}, "colour"),
        ({"temperature": 3}, "temperature"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_what_cannot_be_honored_is_refused_by_name(
    client: openai.OpenAI, fields: dict, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="numbers", prompt="in words: 1", **fields)
    assert caught.value.param == param
    assert param in caught.value.message


def question(text: str) -> list:
    return [{"role": "user", "content": text}]


def test_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="numbers", messages=question("in words: 42"), logprobs=True, top_logprobs=2
    )
    (choice,) = reply.choices
    assert (choice.message.content, choice.finish_reason) == ("forty two", "stop")
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert [len(entry.top_logprobs) for entry in choice.logprobs.content] == [2] * len(
        choice.logprobs.content
    )
    assert reply.usage is not None
    assert reply.usage.completion_tokens == len(choice.logprobs.content)


def test_a_streamed_chat_is_the_whole_one(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="numbers",
        messages=[{"role": "user", "content": [{"type": "text", "text": "in words: 4711"}]}],
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "four thousand seven hundred eleven"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.usage is not None
    assert last.usage.completion_tokens > 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": [*question("a"), *question("b")]}, "messages"),
        ({"messages": [{"role": "system", "content": "be brief"}]}, "messages"),
        (
            {"messages": question([{"type": "image_url", "image_url": {"url": "data:,"}}])},
            "messages.0.content.0",
        ),
        (
            {"messages": question([{"type": "input_audio", "input_audio": {"data": "AA=="}}])},
            "messages.0.content.0",
        ),
    ],
)
def test_chats_that_cannot_be_had(client: openai.OpenAI, fields: dict, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            **{"model": "numbers", "messages": question("in words: 1"), **fields}
        )
    assert caught.value.param == param


def test_tokens(server: Running) -> None:
    reply = httpx.post(
        f"{server.url}/tokenize", json={"model": "numbers", "prompt": "in words: 42"}
    ).json()
    assert reply["count"] == len(reply["tokens"]) > 3
    assert reply["token_strs"] is None


def test_health_and_metrics(server: Running) -> None:
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{server.url}/ready").json() == {"status": "ready"}
    client = httpx.post(
        f"{server.url}/v1/completions", json={"model": "numbers", "prompt": "in words: 1"}
    )
    assert client.headers["x-request-id"].startswith("req-")
    text = httpx.get(f"{server.url}/metrics").text
    assert 'antiphon_request_success_total{finished_reason="stop",model_name="numbers"}' in text
    assert 'antiphon_engine{counter="kv_pages_available",model_name="numbers"}' in text
    assert 'antiphon_time_to_first_token_seconds_count{model_name="numbers"}' in text
    assert 'antiphon_num_requests_running{model_name="numbers"} 0.0' in text
    assert 'antiphon_http_requests_total{path="/v1/completions",status="200"}' in text
