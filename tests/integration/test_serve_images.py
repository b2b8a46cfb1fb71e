"""Pictures over HTTP, asked by OpenAI's own client. The model's weights are random: its answer is
the engine's own."""

from typing import Any

import openai
import pytest
from http_server import Running
from PIL import Image
from tiny_vlms import data_uri, picture

TEXT = {"type": "text", "text": "w7 w8 w9"}


def part(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def question(*parts: dict) -> list:
    return [{"role": "user", "content": list(parts)}]


def test_a_picture_is_seen(client: openai.OpenAI) -> None:
    def ask(*parts: dict) -> Any:
        return client.chat.completions.create(
            model="sees", messages=question(*parts), max_tokens=8, logprobs=True
        )

    first, again = ask(part(data_uri(picture(1))), TEXT), ask(part(data_uri(picture(1))), TEXT)
    capitals = data_uri(picture(1)).replace("data:", "DATA:")
    assert ask(part(capitals), TEXT).choices[0].message == first.choices[0].message
    other, none = ask(part(data_uri(picture(2))), TEXT), ask(TEXT)
    values = [
        [entry.logprob for entry in reply.choices[0].logprobs.content]
        for reply in (first, again, other, none)
    ]
    assert first.choices[0].message == again.choices[0].message
    assert values[1] == pytest.approx(values[0], abs=1e-4)  # a part of the prompt was cached
    assert values[2] != pytest.approx(values[0], abs=1e-2)
    assert values[3] != pytest.approx(values[0], abs=1e-2)
    assert first.usage.prompt_tokens == other.usage.prompt_tokens > none.usage.prompt_tokens + 10


@pytest.mark.parametrize("stream", [False, True])
def test_a_picture_is_read_once(
    client: openai.OpenAI, server: Running, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """To check the prompt; the engine gets what was made of it."""
    inputs = server.service.models["sees"].engine.inputs
    read, begin = list[Any](), inputs.begin

    def counted(prompt: Any, *arguments: Any) -> Any:
        read.append(prompt)
        return begin(prompt, *arguments)

    monkeypatch.setattr(inputs, "begin", counted)
    messages = question(part(data_uri(picture(3))), TEXT)
    reply = client.chat.completions.create(
        model="sees", messages=messages, max_tokens=2, stream=stream
    )
    if stream:
        assert list(reply)
    assert len(read) == 1


def test_an_answer_goes_back_with_the_next_question(client: openai.OpenAI) -> None:
    """As openai's client gives it, with all its fields."""
    messages = question(part(data_uri(picture(1))), TEXT)
    for _ in range(2):
        reply = client.chat.completions.create(model="sees", messages=messages, max_tokens=4)
        messages += [reply.choices[0].message, {"role": "user", "content": "w1"}]
    assert reply.usage.prompt_tokens > 20


def test_an_answer_to_a_picture_is_streamed(client: openai.OpenAI) -> None:
    messages = question(part(data_uri(picture(1)), detail="auto"), TEXT)
    whole = client.chat.completions.create(model="sees", messages=messages, max_tokens=8)
    stream = client.chat.completions.create(
        model="sees", messages=messages, max_tokens=8, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == whole.choices[0].message.content


def test_models_say_what_they_take(client: openai.OpenAI) -> None:
    modalities = {model.id: model.input_modalities for model in client.models.list()}  # type: ignore[attr-defined]
    assert modalities == {"hears": ["audio"], "numbers": ["text"], "sees": ["text", "image"]}


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (part("/etc/hostname"), "send the image itself"),
        (part("file:///etc/hostname"), "send the image itself"),
        (part("http://127.0.0.1/image.png"), "names no host"),
        (part("data:image/png;base64,AAAA"), "not readable as an image"),
        (part("data:image/png;base64,?"), "no base64"),
        (part("data:,"), "a data URI of an image is"),
        (part(data_uri(Image.new("1", (9000, 9000)))), "pixels are over the limit"),
        (part(data_uri(picture(1)), detail="high"), "detail"),
        ({"type": "image_url"}, "has no 'image_url'"),
        (
            {"type": "input_audio", "input_audio": {"data": "AA=="}},
            "sees takes no audio: it takes text",
        ),
    ],
)
def test_images_that_cannot_be_had(client: openai.OpenAI, image: dict, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.chat.completions.create(model="sees", messages=question(image, TEXT))
    assert caught.value.param is not None
    assert caught.value.param.startswith("messages")
