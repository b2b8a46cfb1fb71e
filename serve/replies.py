"""Parts of answers, and the schema of errors for the OpenAPI document."""

from typing import Any

from pydantic import BaseModel

from antiphon.engine.outputs import Logprob
from antiphon.serve.service import ServedModel


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    error: ErrorDetail


Responses = dict[int | str, dict[str, Any]]
DESCRIPTIONS = {
    400: "a field is wrong, unknown, or cannot be honored",
    401: "no valid API key",
    404: "no such model",
    408: "the body did not come",
    413: "the body is too large",
    429: "too many requests are open",
    500: "the request failed",
    503: "the engine or the server is stopping",
    504: "the deadline passed",
}


def errors(*statuses: int) -> Responses:
    """For the OpenAPI document."""
    return {one: {"model": ErrorReply, "description": DESCRIPTIONS[one]} for one in statuses}


ERRORS = errors(*DESCRIPTIONS)  # of what generates


def also(*media_types: str) -> Responses:
    """For the OpenAPI document: what an answer may be, other than JSON."""
    return {200: {"content": {kind: {} for kind in media_types}}}


def usage(num_prompt_tokens: int, num_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_tokens,
        "total_tokens": num_prompt_tokens + num_tokens,
    }


def token_entry(model: ServedModel, id_: int, entry: Logprob) -> dict[str, Any]:
    """A token as chats and transcriptions have it."""
    text = entry.decoded_token
    content = model.engine.inputs.token_bytes(id_, text)
    return {"token": text, "logprob": entry.logprob, "bytes": content}
