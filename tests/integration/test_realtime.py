"""Realtime transcription over a WebSocket, by OpenAI's own client where it can do it."""

import base64
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from http_server import Running, running_server
from realtime_client import (
    CALL,
    OPENAIS_WEBSOCKETS,
    PREFIX,
    TRANSCRIPTION,
    WECKER,
    samples,
    send,
    settings,
    until,
)
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from antiphon.serve.settings import Limits

pytestmark = OPENAIS_WEBSOCKETS


def test_a_session(client: openai.OpenAI) -> None:
    with client.realtime.connect(extra_query=TRANSCRIPTION) as connection:
        created = connection.recv()
        assert created.type == "session.created"
        assert created.session.type == "transcription"
        connection.session.update(session=settings(model="hears", language="en"))
        updated = connection.recv()
        assert updated.type == "session.updated"
        assert updated.session.audio.input.transcription.language == "en"
        send(connection, samples(CALL))
        connection.input_audio_buffer.commit()
        *events, completed = until(connection, f"{PREFIX}.completed")
        committed, added, done, *deltas = events
        assert committed.type == "input_audio_buffer.committed"
        assert (added.type, done.type) == ("conversation.item.added", "conversation.item.done")
        assert committed.item_id == added.item.id == completed.item_id
        assert {event.type for event in deltas} == {f"{PREFIX}.delta"}
        assert "".join(event.delta for event in deltas) == completed.transcript
        assert completed.transcript == "call seven nine zero"
        assert completed.usage.input_tokens > 0
        connection.session.update(session=settings(language=None))  # detected again
        assert connection.recv().session.audio.input.transcription.language is None
        send(connection, samples(WECKER))
        connection.input_audio_buffer.commit()
        *events, second = until(connection, f"{PREFIX}.completed")
        assert events[0].previous_item_id == completed.item_id
        assert second.transcript == "wecke mich morgen um vier"


def test_commits_are_answered_in_their_order(client: openai.OpenAI) -> None:
    with client.realtime.connect(model="hears", extra_query=TRANSCRIPTION) as connection:
        for sound in (CALL, WECKER):
            send(connection, samples(sound))
            connection.input_audio_buffer.commit()
        texts = [until(connection, f"{PREFIX}.completed")[-1].transcript for _ in range(2)]
    assert texts == ["call seven nine zero", "wecke mich morgen um vier"]


def test_log_probabilities(client: openai.OpenAI) -> None:
    include = ["item.input_audio_transcription.logprobs"]
    with client.realtime.connect(model="hears", extra_query=TRANSCRIPTION) as connection:
        connection.session.update(session={"type": "transcription", "include": include})
        send(connection, samples(CALL))
        connection.input_audio_buffer.commit()
        completed = until(connection, f"{PREFIX}.completed")[-1]
    assert "".join(entry.token for entry in completed.logprobs).strip() == completed.transcript


def test_a_model_of_null_is_the_one_of_the_session(server: Running) -> None:
    update = {"type": "session.update", "session": settings(model=None, language="en")}
    url = f"{server.url.replace('http', 'ws')}/v1/realtime?model=hears"
    with connect(url) as connection:
        connection.recv()
        connection.send(json.dumps(update))
        session = json.loads(connection.recv())["session"]
    assert session["audio"]["input"]["transcription"] == {"model": "hears", "language": "en"}


@pytest.mark.parametrize(
    ("event", "param", "message"),
    [
        ({"type": "response.create"}, "type", "must be one of"),
        ({"audio": ""}, "type", "must be one of"),
        ({"type": "input_audio_buffer.append"}, "audio", "missing"),
        ({"type": "input_audio_buffer.append", "audio": "?"}, "audio", "base64"),
        ({"type": "input_audio_buffer.append", "audio": 7}, "audio", "base64"),
        ({"type": "input_audio_buffer.append", "audio": "", "x": 1}, "x", "no field"),
        ({"type": "input_audio_buffer.commit"}, None, "the buffer is empty"),
        ({"type": "session.update"}, "session", "missing"),
        ({"type": "session.update", "session": {"type": "realtime"}}, "type", "transcription"),
        ({"type": "session.update", "session": settings(model="numbers")}, "model", "reads text"),
        ({"type": "session.update", "session": settings(model="other")}, "model", "no model"),
        ({"type": "session.update", "session": settings(language="xx")}, "language", "xx"),
        ({"type": "session.update", "session": settings(delay="low")},
         "audio.input.transcription.delay", "committed"),
        ({"type": "session.update", "session": settings(prompt="<|en|>")}, "prompt", "special"),
        (
            {"type": "session.update", "session": {"type": "transcription", "audio": {"input": {
                "turn_detection": {"type": "semantic_vad"}}}}},
            "audio.input.turn_detection.type", "server_vad",
        ),
        (
            {"type": "session.update", "session": {"type": "transcription", "audio": {"input": {
                "turn_detection": {"type": "server_vad", "idle_timeout_ms": 6000}}}}},
            "audio.input.turn_detection.idle_timeout_ms", "no responses",
        ),
        (
            {"type": "session.update", "session": {"type": "transcription", "audio": {"input": {
                "turn_detection": {"type": "server_vad", "threshold": 1.5}}}}},
            "audio.input.turn_detection.threshold", "less than or equal to 1",
        ),
        (
            {"type": "session.update", "session": {"type": "transcription", "audio": {"input": {
                "format": {"type": "audio/pcmu"}}}}},
            "audio.input.format.type", "audio/pcm",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_and_the_session_goes_on(
    server: Running, event: dict, param: str | None, message: str
) -> None:
    with connect(f"{server.url.replace('http', 'ws')}/v1/realtime") as connection:
        assert json.loads(connection.recv())["type"] == "session.created"
        connection.send(json.dumps({**event, "event_id": "mine"}))
        answer = json.loads(connection.recv())
        assert answer["type"] == "error"
        assert message in answer["error"]["message"]
        assert (answer["error"]["param"], answer["error"]["event_id"]) == (param, "mine")
        for wrong in ("{", "[]"):
            connection.send(wrong)
            assert json.loads(connection.recv())["type"] == "error"
        connection.send(json.dumps({"type": "input_audio_buffer.clear"}))
        assert json.loads(connection.recv())["type"] == "input_audio_buffer.cleared"


def test_half_a_sample_is_an_error(client: openai.OpenAI) -> None:
    with client.realtime.connect(model="hears", extra_query=TRANSCRIPTION) as connection:
        connection.recv()
        send(connection, b"\0\0\0")
        connection.input_audio_buffer.commit()
        assert "half a sample" in connection.recv().error.message
        send(connection, b"\0")  # the other half
        connection.input_audio_buffer.commit()
        assert connection.recv().type == "input_audio_buffer.committed"


def test_handshakes(whisper_folder: Path) -> None:
    models, limits = {"hears": str(whisper_folder)}, Limits(open_requests=1, upload_mib=0.01)
    with running_server(models, limits, api_keys=("secret",)) as server:
        url = f"{server.url.replace('http', 'ws')}/v1/realtime"
        key = {"authorization": "Bearer secret"}

        def status(target: str = url, **options: Any) -> int:
            with pytest.raises(InvalidStatus) as caught, connect(target, **options):
                pass
            response = caught.value.response
            assert response.headers["x-request-id"].startswith("req-")
            assert json.loads(response.body)["error"]["message"]
            return response.status_code

        assert status() == 401
        assert status(additional_headers={"authorization": "Bearer wrong"}) == 401
        assert status(additional_headers=key, origin="http://elsewhere") == 403
        assert status(f"{url}?model=other", additional_headers=key) == 404
        assert status(f"{url}?intent=conversation", additional_headers=key) == 400
        protocols = ["realtime", "openai-insecure-api-key.secret"]
        with connect(url, subprotocols=protocols, origin=server.url) as connection:
            assert connection.subprotocol == "realtime"
            connection.recv()
            assert status(additional_headers=key) == 429
            size = int(0.01 * (1 << 20))
            for piece, kind in ((size // 2, None), (size // 2, None), (2, "error")):
                audio = base64.b64encode(bytes(piece // 2 * 2)).decode()
                connection.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
                if kind is not None:
                    answer = json.loads(connection.recv())
                    assert answer["error"]["code"] == "buffer_too_large"
        end = time.monotonic() + 30
        while server.service.sessions.open:  # until the server has seen the client leave
            assert time.monotonic() < end
            time.sleep(0.01)
        server.service.limits = replace(limits, idle_seconds=0.2)
        with connect(url, additional_headers=key) as connection:
            connection.recv()
            assert json.loads(connection.recv())["error"]["code"] == "session_idle"
            with pytest.raises(ConnectionClosed):
                connection.recv()
            assert connection.close_code == 1001
        server.service.begin_to_drain()
        assert status(additional_headers=key) == 503


def test_a_client_that_leaves_cancels_its_item(server: Running, client: openai.OpenAI) -> None:
    service = server.service
    with client.realtime.connect(model="hears", extra_query=TRANSCRIPTION) as connection:
        for _ in range(3):
            send(connection, samples(WECKER))
            connection.input_audio_buffer.commit()
        until(connection, "input_audio_buffer.committed")
        assert service.sessions.open == 1
    end = time.monotonic() + 30
    while service.sessions.open or service.admission.open:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert len(service.models["hears"].engine.requests) == 0
