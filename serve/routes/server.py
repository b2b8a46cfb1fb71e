"""What a server says of itself: models, tokens, health, metrics."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from antiphon.config.errors import EngineDeadError, about
from antiphon.inputs.bounded_text import longest_read
from antiphon.inputs.prompts import unicode_text
from antiphon.serve.errors import ApiError, as_api_error
from antiphon.serve.load import note_workers
from antiphon.serve.metrics import CONTENT_TYPE
from antiphon.serve.replies import also, errors
from antiphon.serve.schemas.text import TokenizeBody
from antiphon.serve.service import ServedModel, Service, service_of

MOST_CHARACTERS = 1 << 18  # of a text for /tokenize; some seconds of a core

router = APIRouter(responses=errors(413, 500, 503))
KEYED = errors(401)


def _entry(model: ServedModel) -> dict[str, Any]:
    inputs = model.engine.inputs
    modalities = ["audio"] if model.takes_audio else ["text"]
    if model.takes_images:
        modalities.append("image")
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "antiphon",
        "root": model.engine.config.model.model,
        "max_model_len": inputs.model.max_decoder_len,
        "input_modalities": modalities,
    }


@router.get("/v1/models", responses=KEYED)
async def models(request: Request) -> dict[str, Any]:
    """The models that this server has."""
    served = service_of(request).models.values()
    return {"object": "list", "data": [_entry(model) for model in served]}


@router.get("/v1/models/{name:path}", responses=errors(401, 404))
async def model(name: str, request: Request) -> dict[str, Any]:
    return _entry(service_of(request).model(name))


@router.post("/tokenize", responses=errors(400, 401, 404, 408, 429))
async def tokenize(body: TokenizeBody, request: Request) -> dict[str, Any]:
    """The token ids of a text, as the encoder gets them: of up to 262,144 characters, and more for
    a model of long prompts, 16 for each token that it reads."""
    model = service_of(request).model(body.model)
    inputs = model.engine.inputs
    tokens = max(inputs.model.max_encoder_len, inputs.model.max_decoder_len)
    most = max(MOST_CHARACTERS, longest_read(tokens))
    if len(body.prompt) > most:
        raise ApiError(
            400, f"{len(body.prompt)} characters: send at most {most} at a time", param="prompt"
        )

    with about("prompt"):
        unicode_text(body.prompt)

    def tokenized() -> tuple[list[int], list[str] | None]:
        ids = inputs.tokenizer(body.prompt, add_special_tokens=body.add_special_tokens).input_ids
        names = inputs.tokenizer.convert_ids_to_tokens(ids) if body.return_token_strs else None
        return list(ids), names

    ids, names = await model.engine.run_in_thread(tokenized)
    return {
        "count": len(ids),
        "max_model_len": inputs.model.max_decoder_len,
        "tokens": ids,
        "token_strs": names,
    }


@router.get("/health")
async def health(request: Request) -> Response:
    """Whether the engines work: 200, or 503 if one has ended."""
    _check_engines(service_of(request))
    return JSONResponse({"status": "ok"})


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Whether requests for any model may come: 200, or 503 while the server starts or stops, and
    once an engine has ended."""
    service = service_of(request)
    if not service.ready:
        raise ApiError(503, "the server is starting or stopping", code="not_ready", retry_after=1)
    _check_engines(service)
    return JSONResponse({"status": "ready"})


def _check_engines(service: Service) -> None:
    """Raises ApiError for the first model whose engine has ended."""
    for model in service.models.values():
        try:
            model.engine.check_caller()
        except EngineDeadError as error:
            answer = as_api_error(error)
            answer.message = f"{model.name}: {answer.message}"
            raise answer from None


@router.get("/metrics", response_class=Response, responses=KEYED | also("text/plain"))
async def metrics(request: Request) -> Response:
    """Counters in Prometheus' format."""
    service = service_of(request)
    await note_workers(service)
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)
