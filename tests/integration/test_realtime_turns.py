"""Turns of speech that the server finds in a realtime session, by OpenAI's own client."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
from realtime_client import (
    CALL,
    OPENAIS_WEBSOCKETS,
    PREFIX,
    RATE,
    TRANSCRIPTION,
    WECKER,
    samples,
    send,
    settings,
    until,
)

pytestmark = OPENAIS_WEBSOCKETS


def listening(**detection: Any) -> dict[str, Any]:
    """A session whose turns the server finds."""
    session = settings(model="hears")
    session["audio"]["input"]["turn_detection"] = {"type": "server_vad", **detection}
    return session


def turns(connection: Any, number: int) -> list[tuple[Any, Any, Any, Any]]:
    """Of each: where its speech began and ended, how it was committed, and its text."""
    found: dict[str, dict[str, Any]] = {}
    events: list[Any] = []
    for _ in range(number):
        events += until(connection, f"{PREFIX}.completed")
    kinds = ("speech_started", "speech_stopped", "committed")
    for event in events:
        if (kind := event.type.rpartition(".")[2]) in (*kinds, "completed"):
            assert kind not in found.setdefault(event.item_id, {})
            found[event.item_id][kind] = event
    for of_item in found.values():
        assert list(of_item) == [*kinds, "completed"]
    return [tuple(of_item.values()) for of_item in found.values()]


def test_turns_that_the_server_finds(client: openai.OpenAI) -> None:
    second = bytes(RATE * 2)
    with client.realtime.connect(model="hears", extra_query=TRANSCRIPTION) as connection:
        connection.recv()
        connection.session.update(session=listening(silence_duration_ms=400))
        detection = connection.recv().session.audio.input.turn_detection
        assert (detection.threshold, detection.prefix_padding_ms) == (0.5, 300)
        assert detection.silence_duration_ms == 400
        for sound in (second * 2, samples(CALL), second * 2, samples(WECKER), second):
            send(connection, sound)
        first, last = turns(connection, 2)
        started, stopped, committed, completed = first
        assert completed.transcript == "call seven nine zero"
        assert last[-1].transcript == "wecke mich morgen um vier"
        assert (committed.previous_item_id, last[2].previous_item_id) == (None, committed.item_id)
        call, pause = len(samples(CALL)) / RATE / 2 * 1000, 4000
        assert 1500 < started.audio_start_ms < 2000 + call / 2
        assert started.audio_start_ms + 400 < stopped.audio_end_ms < call + pause
        assert stopped.audio_end_ms <= last[0].audio_start_ms < last[1].audio_end_ms
        # A turn that the client cuts has the id that was told, and no end.
        send(connection, samples(CALL))
        begun = until(connection, "input_audio_buffer.speech_started")[-1]
        connection.input_audio_buffer.commit()
        assert connection.recv().item_id == begun.item_id
        until(connection, f"{PREFIX}.completed")
        connection.input_audio_buffer.clear()
        connection.session.update(session=settings())  # turned off
        updated = until(connection, "session.updated")[-1]
        assert updated.session.audio.input.turn_detection is None
        send(connection, samples(WECKER) + second)
        connection.input_audio_buffer.commit()
        assert connection.recv().type == "input_audio_buffer.committed"


def test_sound_from_before_turns_were_asked_for(client: openai.OpenAI) -> None:
    with client.realtime.connect(model="hears", extra_query=TRANSCRIPTION) as connection:
        connection.recv()
        send(connection, samples(CALL) + bytes(RATE * 2))
        connection.session.update(session=listening())
        assert connection.recv().type == "session.updated"
        ((started, _, _, completed),) = turns(connection, 1)
        assert completed.transcript == "call seven nine zero"
        assert started.audio_start_ms < 1000


def test_many_sessions_find_their_turns_at_once(client: openai.OpenAI) -> None:
    sounds, texts = (CALL, WECKER), ("call seven nine zero", "wecke mich morgen um vier")

    def hear(number: int) -> str:
        with client.realtime.connect(model="hears", extra_query=TRANSCRIPTION) as connection:
            connection.recv()
            connection.session.update(session=listening())
            connection.recv()
            send(connection, samples(sounds[number % 2]) + bytes(RATE * 2), 4801)
            return turns(connection, 1)[0][-1].transcript

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(hear, range(12))) == [*texts] * 6
