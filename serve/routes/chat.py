"""/v1/chat/completions: text and images to text, or a recording to text."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response

from antiphon.engine.outputs import CompletionOutput
from antiphon.serve.beam_fields import check_beam_fields
from antiphon.serve.errors import refused
from antiphon.serve.events import EventStream
from antiphon.serve.identity import REQUEST_ID
from antiphon.serve.messages import chat_prompt, recording
from antiphon.serve.prompt_tokens import call_options, checked
from antiphon.serve.recordings import encoder_tokens, heard, heard_in_pieces, num_tokens
from antiphon.serve.replies import ERRORS, usage
from antiphon.serve.routes.completions import check_streaming
from antiphon.serve.schemas.text import ChatBody
from antiphon.serve.service import ServedModel, Service, service_of

router = APIRouter(prefix="/v1", responses=ERRORS)
Delta = tuple[str, int, int, str | None]  # text, tokens read and generated, finish reason


@router.post("/chat/completions")
async def chat(body: ChatBody, service: Annotated[Service, Depends(service_of)]) -> Response:
    """The model's answer to one message; to a conversation where the model has a chat template."""
    model = service.model(body.model)
    check_streaming(body)
    if body.top_logprobs is not None and not body.logprobs:
        raise refused("top_logprobs", "set 'logprobs' too")
    return await (_listen if model.takes_audio else _read)(service, model, body)


async def _read(service: Service, model: ServedModel, body: ChatBody) -> Response:
    params = body.sampling(
        max_tokens=body.max_completion_tokens or body.max_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    prompts, seconds = [chat_prompt(model, body)], service.deadline(body.timeout)
    (prompt,), seconds = await checked(model, prompts, params, body, "messages", seconds)
    options = call_options(body, seconds)
    if body.stream:

        async def deltas() -> AsyncGenerator[Delta, None]:
            async with aclosing(model.engine.stream(prompt.prepared, params, **options)) as stream:
                async for delta in stream:
                    yield delta.text, 0, delta.num_tokens or 0, delta.finish_reason

        events = _events(model, body, deltas(), prompt.num_tokens)
        return await EventStream.begun(events, done=True)
    output = await model.engine.generate(prompt.prepared, params, **options)
    choices = [_choice(sample, body) for sample in output.outputs]
    num_outputs = sum(len(sample.token_ids) for sample in output.outputs)
    return JSONResponse(_reply(model, choices, prompt.num_tokens, num_outputs))


async def _listen(service: Service, model: ServedModel, body: ChatBody) -> Response:
    """Transcribes the recording in a message."""
    for name in sorted(body.model_fields_set & NOT_FOR_SOUND):
        raise refused(name, "a recording is transcribed: its windows have one text each")
    upload = recording(model, body)
    params = body.sampling()
    check_beam_fields(model, params)
    options = {
        "timestamps": False, "params": params, "priority": body.priority or 0,
        "timeout": service.deadline(body.timeout),
    }  # fmt: skip
    if body.stream:

        async def deltas() -> AsyncGenerator[Delta, None]:
            async with aclosing(heard_in_pieces(service, model, upload, options)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, str):
                        yield piece, 0, 0, None
                    else:
                        yield "", encoder_tokens(model, piece), num_tokens(piece), "stop"

        events = _events(model, body, deltas(), 0)
        return await EventStream.begun(events, done=True)
    result = await heard(service, model, upload, options)
    message = {"role": "assistant", "content": result.text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    num_inputs, num_outputs = encoder_tokens(model, result), num_tokens(result)
    return JSONResponse(_reply(model, [choice], num_inputs, num_outputs))


NOT_FOR_SOUND = {
    "n", "logprobs", "top_logprobs", "source_language", "target_language", "max_tokens",
    "max_completion_tokens", "stop", "min_tokens",
}  # fmt: skip


def _header(model: ServedModel, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{REQUEST_ID.get()}",
        "object": kind,
        "created": int(time.time()),
        "model": model.name,
    }


def _reply(
    model: ServedModel, choices: list[dict[str, Any]], num_inputs: int, num_tokens: int
) -> dict[str, Any]:
    counts = usage(num_inputs, num_tokens)
    return {**_header(model, "chat.completion"), "choices": choices, "usage": counts}


def _choice(sample: CompletionOutput, body: ChatBody) -> dict[str, Any]:
    return {
        "index": sample.index,
        "message": {"role": "assistant", "content": sample.text, "refusal": None},
        "finish_reason": sample.finish_reason,
        "logprobs": _logprobs(sample, body.top_logprobs or 0) if body.logprobs else None,
    }


def _logprobs(sample: CompletionOutput, num_top: int) -> dict[str, Any]:
    content = []
    for id_, row in zip(sample.token_ids, sample.logprobs or [], strict=True):
        likeliest = sorted(row.values(), key=lambda entry: entry.rank)[:num_top]
        top = [_token(entry.decoded_token, entry.logprob) for entry in likeliest]
        own = _token(row[id_].decoded_token, row[id_].logprob)
        content.append({**own, "top_logprobs": top})
    return {"content": content, "refusal": None}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


async def _events(
    model: ServedModel,
    body: ChatBody,
    deltas: AsyncGenerator[Delta, None],
    num_inputs: int,
) -> AsyncGenerator[dict[str, Any], None]:
    header, num_outputs = _header(model, "chat.completion.chunk"), 0
    message: dict[str, Any] = {"role": "assistant"}
    reason: str | None = None
    async with aclosing(deltas) as pieces:
        async for text, read, generated, reason in pieces:
            num_inputs, num_outputs = num_inputs + read, num_outputs + generated
            message["content"] = text
            choice = {"index": 0, "delta": message, "finish_reason": reason, "logprobs": None}
            yield {**header, "choices": [choice]}
            message = {}
    if body.stream_options is not None and body.stream_options.include_usage:
        yield {**header, "choices": [], "usage": usage(num_inputs, num_outputs)}
