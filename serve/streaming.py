"""Streams of completions and of chats: the same events around other choices."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, NamedTuple

from antiphon.serve.errors import refused
from antiphon.serve.identity import REQUEST_ID
from antiphon.serve.replies import usage
from antiphon.serve.schemas.text import TextBody
from antiphon.serve.service import ServedModel


class Delta(NamedTuple):
    """New text. `num_inputs`, `num_tokens`: that were read and generated since the last one."""

    text: str
    num_inputs: int = 0
    num_tokens: int = 0
    finish_reason: str | None = None


def check_streaming(body: Any, num_prompts: int = 1) -> None:
    """Raises ApiError for what a stream cannot give."""
    if body.stream_options is not None and not body.stream:
        raise refused("stream_options", "set 'stream' too")
    if not body.stream:
        return
    if num_prompts > 1:
        raise refused("prompt", "one prompt is streamed at a time")
    if (body.n or 1) > 1:
        raise refused("n", "one sample is streamed at a time")
    if body.logprobs not in (None, False):
        raise refused("logprobs", "they come with whole texts alone, not with a stream")


def header(model: ServedModel, prefix: str, kind: str) -> dict[str, Any]:
    """What a reply and each event of a stream begin with. `prefix`: of the id."""
    return {
        "id": f"{prefix}-{REQUEST_ID.get()}",
        "object": kind,
        "created": int(time.time()),
        "model": model.name,
    }


async def events(
    begin: dict[str, Any],
    body: TextBody,
    deltas: AsyncGenerator[Delta, None],
    content: Callable[[str], dict[str, Any]],
) -> AsyncGenerator[dict[str, Any], None]:
    """`begin`: as `header` has it. `content`: of a choice, for its new text."""
    num_inputs = num_tokens = 0
    async with aclosing(deltas) as pieces:
        async for delta in pieces:
            num_inputs, num_tokens = num_inputs + delta.num_inputs, num_tokens + delta.num_tokens
            ends = {"finish_reason": delta.finish_reason, "logprobs": None}
            yield {**begin, "choices": [{"index": 0, **content(delta.text), **ends}]}
    if body.stream_options is not None and body.stream_options.include_usage:
        yield {**begin, "choices": [], "usage": usage(num_inputs, num_tokens)}
