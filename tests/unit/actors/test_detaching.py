"""A frontend leaves its workers, in whatever state its own event loop is."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from antiphon.actors.address import Host
from antiphon.actors.attachment import Attachment
from antiphon.actors.channel import Inbox
from antiphon.actors.cluster import RayWorkers
from antiphon.actors.session import session


class Method:
    """Of the supervisor's actor: a call that never returns."""

    def remote(self, *_: Any) -> Any:
        return asyncio.Event().wait()


class Supervisor:
    def __init__(self) -> None:
        self.next_start = Method()
        self.attach = SimpleNamespace(remote=lambda *_: None)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[RayWorkers]:
    here = Host("127.0.0.1", "node")
    monkeypatch.setattr(Host, "here", lambda: here)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session, "leave", lambda: None)
    supervisor_side = Inbox(here)
    blueprint: Any = SimpleNamespace(
        placement=SimpleNamespace(colocated=False),
        config=SimpleNamespace(workers=SimpleNamespace(max_restarts=1)),
    )
    workers = RayWorkers(Supervisor(), Attachment(supervisor_side.address, blueprint, [], {}), {})
    yield workers
    workers.close()
    supervisor_side.close()


async def _begin(workers: RayWorkers) -> asyncio.Task[None]:
    workers.attach("frontend", asyncio.get_running_loop(), lambda _: None)
    await asyncio.sleep(0)
    assert workers._starting is not None
    return workers._starting


def test_workers_are_left_after_the_end_of_the_loop_that_serves_their_starts(
    workers: RayWorkers,
) -> None:
    loop = asyncio.new_event_loop()
    starting = loop.run_until_complete(_begin(workers))
    loop.close()
    workers.detach()
    assert not starting.done()  # it runs no more


def test_a_detached_engine_serves_no_starts(workers: RayWorkers) -> None:
    async def scenario() -> None:
        starting = await _begin(workers)
        workers.detach()
        await asyncio.wait([starting], timeout=5)
        assert starting.cancelled()

    asyncio.run(scenario())
