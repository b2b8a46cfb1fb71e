"""Text over HTTP, asked by OpenAI's own client."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from http_server import Running, running_server


@pytest.fixture(scope="module")
def server(t5_folder: Path) -> Iterator[Running]:
    with running_server({"numbers": str(t5_folder)}) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["numbers"]
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


def test_several_prompts_and_forms(client: openai.OpenAI) -> None:
    prompts = [f"in words: {number}" for number in (7, 8, 9)]
    reply = client.completions.create(model="numbers", prompt=prompts, echo=True)
    assert [choice.text for choice in reply.choices] == [
        "in words: 7seven", "in words: 8eight", "in words: 9nine",
    ]  # fmt: skip


def test_a_streamed_completion_is_the_whole_one(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model="numbers",
        prompt="in words: 4711",
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    assert len(chunks) > 3
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
