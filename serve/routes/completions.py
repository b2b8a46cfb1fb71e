"""/v1/completions: text to text."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from antiphon.config.sampling import SamplingParams
from antiphon.engine.deadline import Deadline
from antiphon.engine.outputs import CompletionOutput, RequestOutput
from antiphon.inputs.prompts import Prompt
from antiphon.serve.errors import ApiError
from antiphon.serve.events import EventStream
from antiphon.serve.prompt_tokens import CheckedPrompt, call_options, checked
from antiphon.serve.replies import ERRORS, also, usage
from antiphon.serve.schemas.text import CompletionBody
from antiphon.serve.service import ServedModel, service_of
from antiphon.serve.streaming import Delta, check_streaming, events, header

router = APIRouter(prefix="/v1", responses=ERRORS)
KIND = "cmpl", "text_completion"  # of ids and of replies


@router.post("/completions", responses=also(EventStream.media_type))
async def complete(body: CompletionBody, request: Request) -> Response:
    """Text for each prompt. For a model with an encoder, a single prompt is the encoder's text."""
    service = service_of(request)
    model = service.text_model(body.model)
    params = body.sampling(logprobs=body.logprobs)
    prompts = body.prompts()
    if not 0 < len(prompts) <= service.limits.prompts:
        raise ApiError(
            400,
            f"{len(prompts)} prompts: give 1 to {service.limits.prompts} of them",
            param="prompt",
        )
    check_streaming(body, len(prompts))
    deadline = Deadline(service.deadline(body.timeout))
    reading = checked(model, prompts, params, body, "prompt", deadline)
    if body.stream:
        begin = header(model, *KIND)
        deltas = _deltas(model, reading, params, body, deadline)
        stream = events(begin, body, deltas, lambda text: {"text": text})
        return await EventStream.begun(stream, done=True)
    async with reading as ready:
        options = call_options(body, deadline)
        try:
            async with asyncio.TaskGroup() as group:  # one that fails cancels the others
                calls = (_output(model, prompt, params, options) for prompt in ready)
                tasks = [group.create_task(call) for call in calls]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
    outputs = [task.result() for task in tasks]
    return JSONResponse(_whole(model, ready, outputs, body))


async def _output(
    model: ServedModel, prompt: CheckedPrompt, params: SamplingParams, options: dict[str, Any]
) -> RequestOutput:
    return await model.engine.generate(prompt.prepared, params, **options)


def _whole(
    model: ServedModel,
    prompts: list[CheckedPrompt],
    outputs: list[RequestOutput],
    body: CompletionBody,
) -> dict[str, Any]:
    choices: list[dict[str, Any]] = []
    num_tokens = 0
    for prompt, output in zip(prompts, outputs, strict=True):
        for sample in output.outputs:
            num_tokens += len(sample.token_ids)
            echo = _echo(model, prompt, body, sample.token_ids)
            choices.append(
                {
                    "index": len(choices),
                    "text": echo + sample.text,
                    "finish_reason": sample.finish_reason,
                    "logprobs": _logprobs(model, sample, body, len(echo)),
                }
            )
    num_prompt_tokens = sum(prompt.num_tokens for prompt in prompts)
    counts = usage(num_prompt_tokens, num_tokens)
    return {**header(model, *KIND), "choices": choices, "usage": counts}


def _echo(
    model: ServedModel, prompt: CheckedPrompt, body: CompletionBody, token_ids: list[int]
) -> str:
    """The prompt's text, where it is asked for: the encoder's, then what the decoder began with and
    what parts that from the first of `token_ids`."""
    if not body.echo:
        return ""
    content, decode = prompt.prompt, model.engine.inputs.decode
    text = _text(model, content)
    if isinstance(content, str) or content.get("decoder_prompt") is None:
        return text
    before, first = prompt.prepared.prompt_token_ids or [], token_ids[:1]
    is_apart = decode([*before, *first]) == f"{decode(before)} {decode(first)}"
    return f"{text} " if is_apart else text


def _text(model: ServedModel, prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    if "encoder_prompt" in prompt:
        return "".join(_text(model, part) for part in prompt.values())
    return model.engine.inputs.decode(list(prompt["prompt_token_ids"]))


def _logprobs(
    model: ServedModel, sample: CompletionOutput, body: CompletionBody, begin: int
) -> dict[str, Any] | None:
    """As OpenAI's completions have them: parallel lists, one entry a token. `begin`: characters of
    the answer before the sample's own."""
    if body.logprobs is None or sample.logprobs is None:
        return None
    tokens, values, tops, offsets = [], [], [], []
    shown = SamplingParams(skip_special_tokens=body.skip_special_tokens is not False)
    stream = model.engine.inputs.text_stream(shown)
    for id_, row in zip(sample.token_ids, sample.logprobs, strict=True):
        chosen, before = row[id_], len(stream.text)
        tokens.append(chosen.decoded_token)
        values.append(chosen.logprob)
        tops.append({entry.decoded_token: entry.logprob for entry in row.values()})
        stream.add([id_])
        # A blank before the token may be the text's alone; a token that isn't shown has no place.
        is_shown = stream.text.endswith(chosen.decoded_token)
        offsets.append(begin + max(before, len(stream.text) - len(chosen.decoded_token) * is_shown))
    return {
        "tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets,
    }  # fmt: skip


async def _deltas(
    model: ServedModel,
    reading: AbstractAsyncContextManager[list[CheckedPrompt]],
    params: SamplingParams,
    body: CompletionBody,
    deadline: Deadline,
) -> AsyncGenerator[Delta, None]:
    async with reading as (prompt,):
        options, num_inputs = call_options(body, deadline), prompt.num_tokens
        text: str | None = None
        async with aclosing(model.engine.stream(prompt.prepared, params, **options)) as pieces:
            async for piece in pieces:
                text = _echo(model, prompt, body, piece.token_ids) if text is None else ""
                count = piece.num_tokens or 0
                yield Delta(text + piece.text, num_inputs, count, piece.finish_reason)
                num_inputs = 0
