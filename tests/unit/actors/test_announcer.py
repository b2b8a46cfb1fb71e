"""What workers and frontends are told of the members, and in which order."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from antiphon.actors import announcer as module
from antiphon.actors.address import Address, Host
from antiphon.actors.announcer import PAUSE_SECONDS, SILENT_SECONDS, Announcer
from antiphon.actors.member_messages import Detach, Member, Members

ADDRESS = Address("tcp://127.0.0.1:1", "ipc:///nowhere", "here", b"key", b"token")


class Engine:
    """Members that the test sets, one worker and the frontends, which note what they are told.
    `while_told` runs while the worker takes in a message."""

    def __init__(self) -> None:
        self.members = [member("decoder-0")]
        self.told: list[tuple[str, list[str]]] = []
        self.detached: list[str] = []
        self.while_told: Callable[[], None] = lambda: None
        self.announcer = Announcer(lambda: list(self.members), lambda: [self])

    @property
    def update(self) -> "Engine":  # for handle.update.remote(message)
        return self

    def remote(self, message: Members | Detach) -> Any:
        if isinstance(message, Detach):
            self.detached.append(message.frontend)
            return None
        return asyncio.ensure_future(self.take_in(message))

    async def take_in(self, message: Members) -> None:
        await asyncio.sleep(0)
        self.while_told()
        self.note("worker", message)

    def note(self, who: str, message: Members) -> None:
        self.told.append((who, [each.name for each in message.members]))


def member(name: str) -> Member:
    return Member(name, "decoder", 1, None)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()

    class Sender:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def send(self, message: Members) -> None:
            engine.note("frontend", message)

        def close(self) -> None: ...

    monkeypatch.setattr(module, "Sender", Sender)
    monkeypatch.setattr(Host, "here", lambda: Host("127.0.0.1", "here"))
    return engine


def test_frontends_hear_only_of_members_that_the_workers_were_told_of(engine: Engine) -> None:
    def becomes_ready() -> None:
        if len(engine.members) == 1:
            engine.members.append(member("decoder-1"))
            engine.announcer.changed()

    async def scenario() -> None:
        engine.while_told = becomes_ready
        engine.announcer.add("frontend", ADDRESS)
        engine.announcer.changed()
        running = asyncio.create_task(engine.announcer.run())
        async with asyncio.timeout(5.0):
            while len(engine.told) < 4:
                await asyncio.sleep(0.01)
        running.cancel()

    asyncio.run(scenario())
    both = ["decoder-0", "decoder-1"]
    assert engine.told[:4] == [
        ("worker", ["decoder-0"]),
        ("frontend", ["decoder-0"]),
        ("worker", both),
        ("frontend", both),
    ]


def test_who_attaches_hears_only_what_the_workers_were_told(engine: Engine) -> None:
    engine.while_told = lambda: engine.members.append(member("decoder-1"))
    told = asyncio.run(engine.announcer.tell_workers())
    assert [each.name for each in told] == engine.told[0][1] == ["decoder-0"]


def test_a_silent_frontend_is_dropped_but_not_for_the_supervisors_own_pause(
    engine: Engine,
) -> None:
    dropped = engine.announcer.add("frontend", ADDRESS)
    began = engine.announcer._frontends["frontend"].heard_at
    engine.announcer._drop_silent(began + 0.5)
    now = began + 0.5 + 10 * SILENT_SECONDS
    engine.announcer._drop_silent(now)  # its heartbeats wait behind this call
    assert not dropped.is_set()
    while not dropped.is_set():
        now += PAUSE_SECONDS / 2
        engine.announcer._drop_silent(now)
        assert now < began + 11.5 * SILENT_SECONDS
    assert engine.detached == ["frontend"]


def test_frontends_of_an_earlier_supervisor_are_dropped_unless_they_come(engine: Engine) -> None:
    began = time.monotonic()
    engine.announcer.expect(["lost", "comes"])
    engine.announcer.add("comes", ADDRESS)
    engine.announcer.expect(["lost", "comes"])  # as the next worker says
    engine.announcer._drop_silent(began + SILENT_SECONDS - 1)
    assert engine.detached == []
    engine.announcer.heard("comes")
    engine.announcer._frontends["comes"].heard_at = began + SILENT_SECONDS
    engine.announcer._drop_silent(began + SILENT_SECONDS + 2)
    engine.announcer._drop_silent(began + SILENT_SECONDS + 3)
    assert engine.detached == ["lost"]


def test_decoders_hear_of_loads_where_they_choose_among_encoders(engine: Engine) -> None:
    """Without that, what their encoders have queued for others would be unknown to them."""

    def told(*members: Member) -> list[tuple[str, list[str]]]:
        engine.members, engine.told = list(members), []
        asyncio.run(run_round())
        return engine.told

    async def run_round() -> None:
        await engine.announcer._round()
        await asyncio.sleep(0.01)

    def encoder(number: int, address: Address | None = None) -> Member:
        return Member(f"encoder-{number}", "encoder", 1, address)

    decoder = Member("decoder-0", "decoder", 1, ADDRESS)
    other = Address("tcp://127.0.0.1:2", "ipc:///elsewhere", "here", b"key", b"token")
    assert told(decoder, encoder(0)) == []
    assert told(decoder, encoder(0, ADDRESS), encoder(1, other)) == []  # colocated
    assert told(decoder, encoder(0), encoder(1)) == [
        ("worker", ["decoder-0", "encoder-0", "encoder-1"])
    ]
