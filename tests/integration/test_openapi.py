"""Requests made up from the OpenAPI document: no answer is a failure of the server, or one that the
document does not know."""

from typing import Any

import pytest
import schemathesis
from http_server import Running
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from paths import RECORDINGS
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from antiphon.serve.app import make_app
from antiphon.serve.settings import ServerSettings

pytestmark = pytest.mark.slow

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
DOCUMENT = schemathesis.openapi.from_dict(make_app(ServerSettings(), {}).openapi())
OPERATIONS = [result.ok() for result in DOCUMENT.get_all_operations()]
POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
MOST = 80  # requests for one operation
MODELS = st.sampled_from(["hears", "numbers", "sees", "numbers", None])
RECORDING = (RECORDINGS / "call.wav").read_bytes()
FILES = st.sampled_from([None, RECORDING, RECORDING, RECORDING[:300], b"\xff"])
# Fields made up at random rarely make sense together, nor do messages.
MESSAGES = [{"role": "user", "content": "in words: 7"}]
PLAIN = {"model", "prompt", "messages", "file", "stream", "response_format"}
# Text, as the fields of forms: schemathesis 4.32 has a type of its own for bytes, which its own
# filters of wrong values raise ValueError for. They are sent as files all the same.
schemathesis.openapi.format("binary", st.text())


def check(server: Running, operation: Any, mode: schemathesis.GenerationMode) -> list[int]:
    """Asks with values that fit the document, or do not, mostly for a model that is there; those
    that fit often ask for nothing special. Returns the statuses of the answers."""
    statuses: list[int] = []

    @settings(
        max_examples=MOST, deadline=None, derandomize=True, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        case=operation.as_strategy(generation_mode=mode),
        model=MODELS, file=FILES, is_plain=st.booleans(),
    )  # fmt: skip
    def ask(case: schemathesis.Case, model: str | None, file: bytes | None, is_plain: bool) -> None:
        if isinstance(case.body, dict) and mode == POSITIVE:
            if is_plain:
                case.body = {name: case.body[name] for name in PLAIN & case.body.keys()}
                if "messages" in case.body:
                    case.body["messages"] = MESSAGES
            if file is not None and "file" in case.body:
                case.body["file"] = file
            case.body.pop("timeout", None)  # a short one passes, rightly: 504
        if model is not None and isinstance(case.body, dict):
            case.body["model"] = model
        if model is not None and "name" in case.path_parameters:
            case.path_parameters["name"] = model
        answer = case.call_and_validate(base_url=server.url, checks=CHECKS, timeout=60)
        statuses.append(answer.status_code)

    ask()
    return statuses


def test_references_lead_somewhere() -> None:
    """Of one that does not, the tests below would be told too late, or not: a body that no value
    fits is left out of the requests."""

    def follow(part: Any) -> None:
        if isinstance(part, dict) and "$ref" in part:
            target = document
            for name in part["$ref"].removeprefix("#/").split("/"):
                target = target[name]
        for value in part.values() if isinstance(part, dict) else part:
            if isinstance(value, (dict, list)):
                follow(value)

    document = DOCUMENT.raw_schema
    follow(document)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_answers_to_what_fits_the_document(server: Running, operation: Any) -> None:
    statuses = check(server, operation, POSITIVE)
    assert 200 in statuses
    assert len(statuses) == MOST or operation.method == "get"  # which has few values


@pytest.mark.parametrize(
    "operation",
    [operation for operation in OPERATIONS if operation.method == "post"],
    ids=lambda operation: operation.label,
)
def test_answers_to_what_does_not_fit(server: Running, operation: Any) -> None:
    statuses = check(server, operation, NEGATIVE)
    assert 400 in statuses
    assert len(statuses) == MOST
