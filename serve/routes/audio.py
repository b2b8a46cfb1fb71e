"""/v1/audio/transcriptions and /v1/audio/translations."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.datastructures import UploadFile

from antiphon.serve.events import EventStream
from antiphon.serve.recordings import heard, heard_in_pieces, token_usage
from antiphon.serve.replies import ERRORS, also
from antiphon.serve.schemas.audio import AudioBody, TranscriptionBody, TranslationBody
from antiphon.serve.service import ServedModel, Service, service_of
from antiphon.serve.transcription_options import transcription_options
from antiphon.serve.transcripts import TEXTS, answer
from antiphon.serve.uploads import Upload, checked_form, form_data

router = APIRouter(prefix="/v1/audio", responses=ERRORS)


def _form(kind: type[AudioBody]) -> dict[str, Any]:
    """The body's description in the OpenAPI document: fields are read from the form by hand."""
    schema = kind.model_json_schema()
    schema = _inlined(schema, schema.pop("$defs", {}))
    schema["properties"] = {
        name: _without_null(field) for name, field in schema["properties"].items()
    }
    schema["properties"]["file"] = {"type": "string", "format": "binary"}
    schema["required"] = ["file"]
    content = {"multipart/form-data": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """`schema` with definitions in place of references to them, which would lead nowhere: in the
    document they are sought from its root, and FastAPI puts none there of a body read by hand."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    return {name: _inlined(part, definitions) for name, part in schema.items()}


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """Of a form, where no text means null: such a field is left out."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    rest = {name: value for name, value in field.items() if name != "anyOf"}
    if not kinds:
        return rest
    return {**kinds[0], **rest} if len(kinds) == 1 else {"anyOf": kinds, **rest}


@router.post(
    "/transcriptions",
    openapi_extra=_form(TranscriptionBody),
    responses=also(*TEXTS, EventStream.media_type),
)
async def transcribe(request: Request) -> Response:
    """Text of a recording, in the language that is spoken."""
    service = service_of(request)
    async with AsyncExitStack() as scope:
        form = await scope.enter_async_context(form_data(request))
        body, file = checked_form(form, TranscriptionBody)
        model = service.audio_model(body.model)
        options = transcription_options(service, model, body, logprobs=0 if body.include else None)
        upload = _upload(model, file)
        if body.stream:
            events = _events(service, model, upload, options, scope.pop_all())
            return await EventStream.begun(events, done=False)
        return answer(model, await heard(service, model, upload, options), body)


@router.post("/translations", openapi_extra=_form(TranslationBody), responses=also(*TEXTS))
async def translate(request: Request) -> Response:
    """English text of a recording in another language."""
    service = service_of(request)
    async with form_data(request) as form:
        body, file = checked_form(form, TranslationBody)
        model = service.audio_model(body.model)
        options = transcription_options(service, model, body)
        return answer(model, await heard(service, model, _upload(model, file), options), body)


def _upload(model: ServedModel, file: UploadFile) -> Upload:
    audio = model.engine.inputs.audio
    assert audio is not None
    return Upload(file.file, file.size or 0, audio.sampling_rate, param="file")


async def _events(
    service: Service,
    model: ServedModel,
    upload: Upload,
    options: dict[str, Any],
    form: AsyncExitStack,
) -> AsyncGenerator[dict[str, Any], None]:
    """`form`: of the upload, which ends with the stream."""
    async with form, aclosing(heard_in_pieces(service, model, upload, options)) as pieces:
        async for piece in pieces:
            if isinstance(piece, str):
                yield {"type": "transcript.text.delta", "delta": piece}
            else:
                usage = token_usage(model, piece)
                yield {"type": "transcript.text.done", "text": piece.text, "usage": usage}
