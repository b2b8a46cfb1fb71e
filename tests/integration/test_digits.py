"""The shipped TrOCR reads numbers in pictures that training never saw."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from http_server import running_server
from paths import EXAMPLES
from PIL import Image
from tiny_vlms import data_uri

from antiphon import Engine
from antiphon.examples.trocr_digits.evaluate import accuracy
from antiphon.examples.trocr_digits.train import held_out

MODEL = EXAMPLES / "trocr_digits" / "model"


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_numbers_are_read(count: int) -> None:
    with Engine(str(MODEL), ray=False, device="cpu") as engine:
        assert accuracy(engine, count) >= 0.95


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with (
        running_server({"digits": str(MODEL)}) as server,
        httpx.Client(base_url=server.url, timeout=60.0) as client,
    ):
        yield client


def seen(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}], **fields}


def part(picture: Image.Image) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_uri(picture)}}


def test_a_chat_reads_a_picture(http: httpx.Client) -> None:
    drawings = held_out(8)
    answers = [
        http.post("/v1/chat/completions", json=seen(part(drawn.picture))).json()
        for drawn in drawings
    ]
    with Engine(str(MODEL), ray=False, device="cpu") as engine:
        prompts = [{"multi_modal_data": {"image": drawn.picture}} for drawn in drawings]
        expected = [out.outputs[0].text for out in engine.generate(prompts, use_tqdm=False)]
    assert [answer["choices"][0]["message"]["content"] for answer in answers] == expected
    assert sum(text == drawn.number for text, drawn in zip(expected, drawings, strict=True)) >= 7
    assert answers[0]["usage"]["prompt_tokens"] > 1
    model = http.get("/v1/models").json()["data"][0]
    assert "image" in str(model)


def test_what_the_decoder_begins_with(http: httpx.Client) -> None:
    """Its first digits are given; it goes on behind them."""
    drawn = next(drawn for drawn in held_out(20) if len(drawn.number) > 2)
    text = {"type": "text", "text": drawn.number[0]}
    reply = http.post("/v1/chat/completions", json=seen(part(drawn.picture), text)).json()
    assert reply["choices"][0]["message"]["content"] == drawn.number[1:]


def test_a_chat_without_one_picture_is_refused(http: httpx.Client) -> None:
    picture = part(held_out(1)[0].picture)
    text = {"type": "text", "text": "7"}
    for body in (seen(text), seen(picture, picture)):
        reply = http.post("/v1/chat/completions", json=body)
        assert reply.status_code == 400
        assert "reads one image" in reply.json()["error"]["message"]
    path = {"type": "image_url", "image_url": {"url": "/etc/hostname"}}
    assert http.post("/v1/chat/completions", json=seen(path)).status_code == 400
    reply = http.post("/v1/completions", json={"prompt": "7"})
    assert reply.status_code == 400
    assert "use /v1/chat/completions" in reply.json()["error"]["message"]


def test_the_checkpoint_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 5 * 2**20  # bytes
