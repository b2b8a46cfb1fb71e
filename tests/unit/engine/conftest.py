"""A dispatcher whose messages stay here."""

import pytest
from dispatching import Sent

from antiphon.engine.dispatch import Dispatcher


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def not_sent() -> list[tuple[int, str]]:
    return []


@pytest.fixture
def dispatcher(sent: Sent, not_sent: list[tuple[int, str]]) -> Dispatcher:
    dispatcher = Dispatcher("f", lambda request, e: not_sent.append((request.id.number, str(e))))
    dispatcher.workers = sent  # type: ignore[assignment]
    return dispatcher
