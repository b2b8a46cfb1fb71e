"""Requests made up from the OpenAPI document: no answer is a failure of the server, or one that the
document does not know."""

from typing import Any

import pytest
import schemathesis
from http_server import Running
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
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
MODELS = st.sampled_from([None, "hears", "numbers", "sees"])


def check(server: Running, operation: Any, mode: schemathesis.GenerationMode) -> None:
    """Asks with bodies that fit the document, or do not, mostly for a model that is there."""

    @settings(
        max_examples=20, deadline=None, derandomize=True, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode), model=MODELS)
    def ask(case: schemathesis.Case, model: str | None) -> None:
        if model is not None and isinstance(case.body, dict):
            case.body["model"] = model
        case.call_and_validate(base_url=server.url, checks=CHECKS, timeout=60)

    ask()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_answers_to_what_fits_the_document(server: Running, operation: Any) -> None:
    check(server, operation, POSITIVE)


@pytest.mark.parametrize(
    "operation",
    [operation for operation in OPERATIONS if operation.method == "post"],
    ids=lambda operation: operation.label,
)
def test_answers_to_what_does_not_fit(server: Running, operation: Any) -> None:
    check(server, operation, NEGATIVE)
