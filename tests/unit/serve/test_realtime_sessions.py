"""Sessions of clients that fall silent; how handshakes are counted and traced."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from starlette.websockets import WebSocket

from antiphon.serve.admission import Admission
from antiphon.serve.client_events import ClientGone, ClientSilent
from antiphon.serve.connection import ConnectionMiddleware
from antiphon.serve.errors import ApiError
from antiphon.serve.events import event
from antiphon.serve.handshake import deny
from antiphon.serve.keys import ApiKeys
from antiphon.serve.metric_names import PREFIX
from antiphon.serve.metrics import Metrics
from antiphon.serve.realtime import Item, RealtimeSession
from antiphon.serve.routes.realtime import realtime
from antiphon.serve.settings import Limits
from antiphon.serve.traces import Traces

COMMIT = [
    {"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(64)).decode()},
    {"type": "input_audio_buffer.commit"},
]


class SlowSession(RealtimeSession):
    """Transcribes when it may."""

    may_transcribe: asyncio.Event

    def _options(self, settings: Any, include: Any) -> tuple[Any, dict[str, Any]]:
        return None, {}

    async def _transcribe(self, item: Item) -> None:
        await self.may_transcribe.wait()
        await self._send("transcribed")


IDLE_SECONDS = 0.05


def events_of(
    *messages: dict[str, Any] | str | bytes | type[Exception] | None,
    waits: list[float] | None = None,
) -> list[str]:
    """The kinds of events that a client gets who sends `messages`: an exception stands for what the
    connection raises, None for the end of the transcription. Errors: their code or message.
    `waits`: takes the seconds that the session would wait for each of `messages`."""
    sent: list[str] = []
    waits = [] if waits is None else waits

    async def scenario() -> None:
        left = list(messages)
        service: Any = SimpleNamespace(
            limits=Limits(idle_seconds=IDLE_SECONDS), admission=Admission(4),
            audio_model=lambda _: SimpleNamespace(name="m"),
        )  # fmt: skip

        async def send(text: str) -> None:
            text.encode()  # as a socket does
            event = json.loads(text)
            error = event.get("error", {})
            sent.append(error.get("code") or error.get("message") or event["type"])

        session = SlowSession(service, None, send)
        session.may_transcribe = asyncio.Event()

        async def next_message(seconds: float) -> str | bytes:
            waits.append(seconds)
            await asyncio.sleep(0.001)  # the transcription has its turn
            message = left.pop(0)
            if message is None:
                session.may_transcribe.set()
                message = left.pop(0)
                await asyncio.sleep(0.001)
            if isinstance(message, dict):
                return json.dumps(message)
            if isinstance(message, (str, bytes)):
                return message
            assert message is not None
            raise message

        try:
            await session.run(next_message)
        except* ClientGone:
            sent.append("gone")
        assert not left

    asyncio.run(scenario())
    return sent


def test_a_silent_client_is_sent_away() -> None:
    assert events_of(ClientSilent) == ["session.created", "session_idle"]


def test_a_client_that_waits_for_its_text_is_not() -> None:
    waits: list[float] = []
    events = events_of(
        *COMMIT, ClientSilent, ClientSilent, None, ClientSilent, ClientSilent, waits=waits
    )
    assert events[-2:] == ["transcribed", "session_idle"]
    assert events.count("session_idle") == 1
    assert waits[2:5] == [IDLE_SECONDS] * 3  # it waits for its text


def test_silence_begins_at_the_end_of_a_transcript() -> None:
    waits: list[float] = []
    events_of(*COMMIT, None, ClientSilent, ClientSilent, waits=waits)
    assert 0.8 * IDLE_SECONDS < waits[-1] < IDLE_SECONDS


def test_binary_frames_are_told_and_the_session_goes_on() -> None:
    events = events_of(b"RIFF", {"type": "input_audio_buffer.clear"}, ClientGone)
    assert "not binary" in events[1]
    assert events[2:] == ["input_audio_buffer.cleared", "gone"]


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("[" * 100_000, "brackets within each other"),
        ('{"type": "session.update", "session": ' + "[" * 100_000, "brackets within each other"),
        ("[" * 100_000 + "]" * 100_000, "brackets within each other"),
        ("[" * 900 + "]" * 900, "an event must be an object"),
        ({"type": "session.update", "session": json.loads("[" * 900 + "]" * 900)}, "dictionary"),
        ({"type": "input_audio_buffer.clear", "\ud800": 1}, "unknown"),
        ({"type": "session.update", "session": {"\ud800": 1}}, "unknown"),
        ({"type": "\ud800"}, "'type' must be one of"),
        ({"type": "input_audio_buffer.append", "audio": "\ud800"}, "must be base64"),
    ],
)
def test_odd_events_are_told_and_the_session_goes_on(message: Any, told: str) -> None:
    events = events_of(message, {"type": "input_audio_buffer.clear"}, ClientGone)
    assert told in events[1]
    assert events[2:] == ["input_audio_buffer.cleared", "gone"]


def test_events_of_streams_hold_any_text() -> None:
    for text in ("\ud800", "caf\udce9 日本", "\U0001f600"):
        assert json.loads(event({"text": text}).removeprefix(b"data: ")) == {"text": text}


def test_a_client_that_leaves_is_told_nothing() -> None:
    assert events_of(*COMMIT, ClientGone)[-1] == "gone"


def counted(metrics: Metrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix(PREFIX), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


@pytest.mark.parametrize(("limit", "status"), [(1, 101), (0, 429)])
def test_handshakes_are_counted_and_traced(limit: int, status: int) -> None:
    sessions, exporter = Admission(limit), InMemorySpanExporter()
    metrics, traces = Metrics(Admission(1), sessions=sessions), Traces(exporter)

    async def app(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        scope["route"] = SimpleNamespace(path="/v1/realtime")
        try:
            with sessions.admitted():
                await send({"type": "websocket.accept"})
                metrics.note_workers({})
        except ApiError as error:
            await deny(WebSocket(scope, receive, send), error)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        pass

    server = ConnectionMiddleware(app, ApiKeys(()), Limits(), Admission(1), metrics, traces=traces)
    scope = {
        "type": "websocket", "path": "/v1/realtime", "headers": [], "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }  # fmt: skip
    asyncio.run(server(scope, receive, send))
    traces.close()
    (span,) = exporter.get_finished_spans()
    assert span.name == "GET /v1/realtime"
    assert span.attributes["http.response.status_code"] == status
    values = counted(metrics)
    assert values["http_requests_total", "/v1/realtime", str(status)] == 1
    if status == 101:
        assert values["realtime_sessions_open",] == 1
    metrics.note_workers({})
    values = counted(metrics)
    assert values["realtime_sessions_open",] == 0
    assert values["http_requests_turned_away_total",] == (status == 429)


def test_a_session_that_fails_is_counted() -> None:
    metrics = Metrics(Admission(1))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("before the handshake")

    server = ConnectionMiddleware(app, ApiKeys(()), Limits(), Admission(1), metrics)
    scope = {"type": "websocket", "path": "/v1/realtime", "headers": [], "subprotocols": []}
    unused: Any = None
    with pytest.raises(RuntimeError, match="before the handshake"):
        asyncio.run(server(scope, unused, unused))
    assert counted(metrics)["http_requests_total", "other", "500"] == 1


class Connection:
    """A client's end of /v1/realtime, as an ASGI application sees it, that sends `messages`."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self._messages = [{"type": "websocket.connect"}, *messages]
        self.sent: list[Any] = []

    async def receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if message["type"] == "websocket.close":
            raise ConnectionResetError("the client left at the same time")

    def errors(self) -> list[str]:
        events = [json.loads(sent["text"]) for sent in self.sent if "text" in sent]
        return [event["error"]["message"] for event in events if event["type"] == "error"]


def test_the_route_takes_binary_frames_and_clients_that_leave_at_the_end() -> None:
    service: Any = SimpleNamespace(
        limits=Limits(idle_seconds=IDLE_SECONDS), admission=Admission(4), sessions=Admission(4),
        audio_model=lambda _: SimpleNamespace(name="m"),
    )  # fmt: skip
    connection = Connection({"type": "websocket.receive", "bytes": b"RIFF"})
    scope = {
        "type": "websocket", "path": "/v1/realtime", "headers": [], "subprotocols": [],
        "query_string": b"", "app": SimpleNamespace(state=SimpleNamespace(service=service)),
    }  # fmt: skip
    asyncio.run(realtime(WebSocket(scope, connection.receive, connection.send)))
    binary, silent = connection.errors()
    assert "not binary" in binary
    assert "no event for 0.05 s" in silent
    assert connection.sent[-1]["type"] == "websocket.close"
