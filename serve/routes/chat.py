"""/v1/chat/completions: text and images to text, or a recording to text."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from antiphon.engine.deadline import Deadline
from antiphon.engine.outputs import CompletionOutput
from antiphon.serve.beam_fields import check_beam_fields
from antiphon.serve.errors import refused
from antiphon.serve.events import EventStream
from antiphon.serve.messages import chat_prompt, recording
from antiphon.serve.prompt_tokens import call_options, checked
from antiphon.serve.recordings import encoder_tokens, heard, heard_in_pieces, num_tokens
from antiphon.serve.replies import ERRORS, also, token_entry, usage
from antiphon.serve.schemas.text import ChatBody
from antiphon.serve.service import ServedModel, Service, service_of
from antiphon.serve.streaming import Delta, check_streaming, events, header

router = APIRouter(prefix="/v1", responses=ERRORS)


@router.post("/chat/completions", responses=also(EventStream.media_type))
async def chat(body: ChatBody, request: Request) -> Response:
    """The model's answer to one message; to a conversation where the model has a chat template."""
    service = service_of(request)
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
    deadline = Deadline(service.deadline(body.timeout))
    reading = checked(model, [chat_prompt(model, body)], params, body, "messages", deadline)
    if body.stream:

        async def deltas() -> AsyncGenerator[Delta, None]:
            async with reading as (prompt,):
                options, num_inputs = call_options(body, deadline), prompt.num_tokens
                stream = model.engine.stream(prompt.prepared, params, **options)
                async with aclosing(stream) as pieces:
                    async for piece in pieces:
                        count = piece.num_tokens or 0
                        yield Delta(piece.text, num_inputs, count, piece.finish_reason)
                        num_inputs = 0

        return await _stream(model, body, deltas())
    async with reading as (prompt,):
        options = call_options(body, deadline)
        output = await model.engine.generate(prompt.prepared, params, **options)
    choices = [_choice(model, sample, body) for sample in output.outputs]
    num_outputs = sum(len(sample.token_ids) for sample in output.outputs)
    return JSONResponse(_reply(model, choices, prompt.num_tokens, num_outputs))


async def _listen(service: Service, model: ServedModel, body: ChatBody) -> Response:
    """Transcribes the recording in a message."""
    for name, neutral in NOT_FOR_SOUND.items():
        if getattr(body, name) not in (None, neutral):
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
                        yield Delta(piece)
                    else:
                        yield Delta("", encoder_tokens(model, piece), num_tokens(piece), "stop")

        return await _stream(model, body, deltas())
    result = await heard(service, model, upload, options)
    message = {"role": "assistant", "content": result.text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    num_inputs, num_outputs = encoder_tokens(model, result), num_tokens(result)
    return JSONResponse(_reply(model, [choice], num_inputs, num_outputs))


# With what asks for nothing, beside null.
NOT_FOR_SOUND: dict[str, Any] = {
    "n": 1, "logprobs": False, "top_logprobs": 0, "source_language": None, "target_language": None,
    "max_tokens": None, "max_completion_tokens": None, "stop": [], "min_tokens": 0,
}  # fmt: skip


def _reply(
    model: ServedModel, choices: list[dict[str, Any]], num_inputs: int, num_tokens: int
) -> dict[str, Any]:
    counts = usage(num_inputs, num_tokens)
    begin = header(model, "chatcmpl", "chat.completion")
    return {**begin, "choices": choices, "usage": counts}


def _choice(model: ServedModel, sample: CompletionOutput, body: ChatBody) -> dict[str, Any]:
    num_top = body.top_logprobs or 0
    return {
        "index": sample.index,
        "message": {"role": "assistant", "content": sample.text, "refusal": None},
        "finish_reason": sample.finish_reason,
        "logprobs": _logprobs(model, sample, num_top) if body.logprobs else None,
    }


def _logprobs(model: ServedModel, sample: CompletionOutput, num_top: int) -> dict[str, Any]:
    content = []
    for id_, row in zip(sample.token_ids, sample.logprobs or [], strict=True):
        likeliest = sorted(row, key=lambda other: row[other].rank)[:num_top]
        top = [token_entry(model, other, row[other]) for other in likeliest]
        content.append({**token_entry(model, id_, row[id_]), "top_logprobs": top})
    return {"content": content, "refusal": None}


async def _stream(
    model: ServedModel, body: ChatBody, deltas: AsyncGenerator[Delta, None]
) -> EventStream:
    message: dict[str, Any] = {"role": "assistant"}  # only the first event has it

    def content(text: str) -> dict[str, Any]:
        delta = {**message, "content": text}
        message.clear()
        return {"delta": delta}

    begin = header(model, "chatcmpl", "chat.completion.chunk")
    return await EventStream.begun(events(begin, body, deltas, content), done=True)
