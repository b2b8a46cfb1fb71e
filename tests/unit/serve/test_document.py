"""The OpenAPI document lists the answers that are given, and no others."""

import json
from typing import Any

import pytest

from antiphon.serve.app import make_app
from antiphon.serve.settings import ServerSettings

GENERATES = {200, 400, 401, 404, 408, 413, 429, 500, 503, 504}
ANSWERS = {
    "post /v1/audio/transcriptions": GENERATES,
    "post /v1/audio/translations": GENERATES,
    "post /v1/chat/completions": GENERATES,
    "post /v1/completions": GENERATES,
    "post /tokenize": GENERATES - {504},
    "get /v1/models": {200, 401, 413, 500, 503},
    "get /v1/models/{name}": {200, 401, 404, 413, 500, 503},
    "get /health": {200, 413, 500, 503},
    "get /ready": {200, 413, 500, 503},
    "get /metrics": {200, 401, 413, 500, 503},
    "get /load": {200, 401, 413, 500, 503},
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    app = make_app(ServerSettings(), {})
    assert app.openapi() is app.openapi()  # made once
    return app.openapi()


def test_the_statuses_of_each_path(document: dict[str, Any]) -> None:
    listed = {
        f"{method} {path}": {int(status) for status in operation["responses"]}
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert listed == ANSWERS


def test_every_error_is_in_openai_s_form(document: dict[str, Any]) -> None:
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if status != "200":
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorReply"}
    assert "ValidationError" not in json.dumps(document)
