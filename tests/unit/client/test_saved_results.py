"""Which results of a batch are those of an earlier run: the same request, and no other."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from played_server import DONE, client

from antiphon.client import BatchItem, ConnectionFailed

HEARD = {"text": "hello", "segments": []}


def answer(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json=HEARD if "audio" in str(request.url) else DONE)


def ran(
    inputs: list[Any], output: Path | None, model: str = "m", **options: Any
) -> list[BatchItem]:
    async def run() -> list[BatchItem]:
        async with client(answer, model=model) as asking:
            items = [item async for item in asking.batch(inputs, output=output, **options)]
            return sorted(items, key=lambda item: item.index)

    return asyncio.run(run())


def resumed(inputs: list[Any], output: Path, **options: Any) -> list[bool]:
    items = ran(inputs, output, **options)
    assert [item.error for item in items] == [None] * len(inputs)
    return [item.resumed for item in items]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def test_sounds_by_their_content(output: Path, tmp_path: Path) -> None:
    quiet = np.zeros(2000, np.float32)
    other = quiet.copy()
    other[500:1500] = 0.5  # numpy's text of both is the same
    path = tmp_path / "call.wav"
    path.write_bytes(b"RIFF one")
    inputs = [quiet, (quiet, 8000), io.BytesIO(b"RIFF"), path, b"RIFF bytes"]
    again = [quiet.copy(), (quiet, 8000), io.BytesIO(b"RIFF"), str(path), bytearray(b"RIFF bytes")]
    assert resumed(inputs, output) == [False] * 5
    assert resumed(again, output) == [True] * 5
    path.write_bytes(b"RIFF two")
    changed = [other, (quiet, 16000), io.BytesIO(b"RIFX"), path, b"RIFF other"]
    assert resumed(changed, output) == [False] * 5


def test_a_file_object_is_read_once(output: Path) -> None:
    sent: list[bytes] = []

    def hearing(request: httpx.Request) -> httpx.Response:
        sent.append(request.content)
        return httpx.Response(200, json=HEARD)

    async def run() -> None:
        async with client(hearing) as asking:
            assert [item async for item in asking.batch([io.BytesIO(b"RIFF")], output=output)]

    asyncio.run(run())
    assert b"RIFF" in sent[0]


def test_prompts_by_their_content(output: Path) -> None:
    prompts = ["x", {"encoder_prompt": "a", "decoder_prompt": "b"}]
    same = ["x", {"decoder_prompt": "b", "encoder_prompt": "a"}]
    chats = ["x", [{"role": "user", "content": "x"}]]
    assert resumed(prompts, output, task="generate") == [False, False]
    assert resumed(same, output, task="generate") == [True, True]
    assert resumed(["y", {**same[1], "decoder_prompt": "c"}], output, task="generate") == [  # type: ignore[dict-item]
        False, False,
    ]  # fmt: skip
    assert resumed(chats, output, task="chat") == [False, False]
    assert resumed(chats, output, task="chat") == [True, True]


@pytest.mark.parametrize(
    "change",
    [{"model": "other"}, {"task": "translate"}, {"language": "de"}, {"temperature": 0.5}],
    ids=str,
)
def test_another_request_is_sent(change: dict[str, Any], output: Path) -> None:
    before = {"model": "m", "task": "transcribe", "temperature": 0.0}
    assert resumed([b"RIFF"], output, **before) == [False]
    assert resumed([b"RIFF"], output, **{**before, **change}) == [False]
    assert resumed([b"RIFF"], output, **before) == [True]


@pytest.mark.parametrize("saving", [False, True])
def test_an_input_of_any_kind_fails_alone(saving: bool, output: Path) -> None:
    class Unreadable:
        def read(self) -> bytes:
            raise RuntimeError("the tape is gone")

    def items(inputs: list[Any], **options: Any) -> list[BatchItem]:
        return ran(inputs, output if saving else None, **options)

    sounds = items([b"a", None, object(), Unreadable(), "/no/such/file", np.zeros((2, 2)), b"b"])
    kinds = [type(item.error).__name__ for item in sounds]
    assert kinds == [
        "NoneType", "ValueError", "ValueError", "RuntimeError", "FileNotFoundError", "ValueError",
        "NoneType",
    ]  # fmt: skip
    prompts = items(["a", {1, 2}, "b"], task="generate")
    assert [type(item.error).__name__ for item in prompts] == ["NoneType", "TypeError", "NoneType"]


def test_an_answer_that_is_none_fails_alone(output: Path) -> None:
    def half(request: httpx.Request) -> httpx.Response:
        bad = json.loads(request.content)["prompt"] == "bad"
        return httpx.Response(200, json={"choices": []} if bad else DONE)

    async def run() -> list[BatchItem]:
        async with client(half) as asking:
            items = asking.batch(["a", "bad", "b"], task="generate", output=output)
            return sorted([item async for item in items], key=lambda item: item.index)

    first, bad, last = asyncio.run(run())
    assert first.error is last.error is None
    assert bad.error is not None
    assert not isinstance(bad.error, ConnectionFailed)
