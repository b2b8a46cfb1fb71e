"""A realtime transcription session: events in, events out, in OpenAI's form.

Sound is collected in a buffer. Each commit makes an item of it, and items are transcribed one after
another, while more sound may come.
"""

import asyncio
import base64
import binascii
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass
from typing import IO, Any

from antiphon.config.errors import AntiphonError
from antiphon.serve.client_events import ClientGone, ClientSilent, NextMessage, Send, only, parsed
from antiphon.serve.errors import ApiError, as_api_error
from antiphon.serve.recordings import heard_in_pieces, token_usage
from antiphon.serve.schemas.audio import TranscriptionBody
from antiphon.serve.schemas.realtime import (
    LOGPROBS,
    RATE,
    AudioFormat,
    ServerVad,
    SessionSettings,
    TranscriptionSettings,
)
from antiphon.serve.service import ServedModel, Service
from antiphon.serve.sound_buffer import SoundBuffer
from antiphon.serve.transcription_options import transcription_options
from antiphon.serve.transcripts import logprobs_of
from antiphon.serve.turn_detection import TurnDetection, new_voices
from antiphon.serve.uploads import Upload

MAX_WAITING = 16  # committed items of a session that are not transcribed yet


@dataclass(frozen=True)
class Item:
    """A committed piece of sound, and how to transcribe it."""

    id: str
    file: IO[bytes]
    size: int
    model: ServedModel
    options: dict[str, Any]


def _item_id() -> str:
    return f"item_{secrets.token_hex(10)}"


def _milliseconds(sample: int) -> int:
    return sample * 1000 // RATE


class RealtimeSession:
    """`model`: for transcriptions whose settings name none; None: the only one that listens."""

    def __init__(self, service: Service, model: str | None, send: Send) -> None:
        """Raises ApiError for a model that is not there or does not listen."""
        self.id = f"sess_{secrets.token_hex(12)}"
        self._service, self._send_text = service, send
        self._settings = TranscriptionSettings(model=service.audio_model(model).name)
        self._include: list[Any] = []
        self._buffer: SoundBuffer
        self._detection: TurnDetection | None = None  # None: the client says where to cut
        self._next_item = _item_id()
        self._items: asyncio.Queue[Item] = asyncio.Queue(MAX_WAITING)
        self._is_transcribing = False
        self._quiet_since = time.monotonic()  # the last message, or the end of a transcript
        self._last_item: str | None = None
        self._handlers: dict[str, Callable[[dict[str, Any]], Awaitable[None]]] = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
        }

    async def run(self, next_message: NextMessage) -> None:
        """Until the client leaves, which cancels what is open, or is silent and waits for nothing.
        Raises ExceptionGroup of ClientGone."""
        self._buffer = SoundBuffer(RATE, self._service.limits.upload_bytes)
        try:
            async with asyncio.TaskGroup() as group:
                await self._send("session.created", session=self._described())
                transcribing = group.create_task(self._transcribe_items())
                await self._listen(next_message)
                transcribing.cancel()
        finally:
            self._buffer.close()
            with suppress(asyncio.QueueEmpty):
                while True:
                    self._items.get_nowait().file.close()

    async def _listen(self, next_message: NextMessage) -> None:
        """A client that waits for a transcript, or has just got one, need not say anything."""
        seconds = self._service.limits.idle_seconds
        while True:
            since, is_waiting = self._quiet_since, self._is_waiting
            left = seconds if is_waiting else since + seconds - time.monotonic()
            try:
                message = await next_message(max(left, 0.0))
                self._quiet_since = time.monotonic()
                await self._take(message)
            except ClientSilent:
                if self._quiet_since == since and not is_waiting:
                    silent = ApiError(408, f"no event for {seconds:g} s", code="session_idle")
                    await self._send("error", error={**silent.body()["error"], "event_id": None})
                    return

    @property
    def _is_waiting(self) -> bool:
        """Whether the client waits for a transcript."""
        return self._is_transcribing or not self._items.empty()

    # ------------------------------------------------------------------ events of the client

    async def _take(self, message: str | bytes) -> None:
        """One event. What is wrong with it is told, and the session goes on."""
        event: Any = None
        try:
            event = parsed(message)
            kind = event.pop("type", None)
            if not isinstance(kind, str) or (handler := self._handlers.get(kind)) is None:
                known = ", ".join(self._handlers)
                raise ApiError(400, f"'type' must be one of {known}", param="type")
            event_id = event.pop("event_id", None)
            event["event_id"] = event_id if isinstance(event_id, str) else None
            await handler(event)
        except (ApiError, AntiphonError, ValueError) as error:
            event_id = event.get("event_id") if isinstance(event, dict) else None
            detail = as_api_error(error).body()["error"]
            await self._send("error", error={**detail, "event_id": event_id})

    async def _update(self, event: dict[str, Any]) -> None:
        wanted = SessionSettings.model_validate(only(event, "session")["session"])
        audio = wanted.audio.input if wanted.audio is not None else None
        settings = self._settings
        if audio is not None and audio.transcription is not None:
            changed = audio.transcription.model_dump(exclude_unset=True)
            changed["model"] = audio.transcription.model or settings.model
            settings = settings.model_copy(update=changed)
        include = self._include if wanted.include is None else wanted.include
        self._options(settings, include)  # refuses what the model can't do
        if audio is not None and "turn_detection" in audio.model_fields_set:
            await self._detect_turns(audio.turn_detection, settings.model)
        self._settings, self._include = settings, include
        await self._send("session.updated", session=self._described())
        if self._detection is not None:
            await self._detection.listen()

    async def _detect_turns(self, settings: ServerVad | None, model: str | None) -> None:
        if settings is None:
            self._detection = None
        elif self._detection is not None:
            self._detection.change(settings)
        else:
            run = self._service.audio_model(model).engine.run_in_thread
            voices, longest = await run(new_voices), self._service.limits.audio_seconds
            self._detection = TurnDetection(settings, self._buffer, self, voices, run, longest)

    async def _append(self, event: dict[str, Any]) -> None:
        audio = only(event, "audio")["audio"]
        try:
            samples = base64.b64decode(audio, validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise ApiError(400, "'audio' must be base64 of samples", param="audio") from None
        if self._detection is not None:
            await self._detection.append(samples)
        else:
            self._buffer.append(samples)

    async def _clear(self, event: dict[str, Any]) -> None:
        only(event)
        self._buffer.clear()
        if self._detection is not None:
            self._detection.begin_anew()
        await self._send("input_audio_buffer.cleared")

    async def _commit(self, event: dict[str, Any]) -> None:
        only(event)
        if self._items.full():
            raise ApiError(
                429, f"{MAX_WAITING} items wait to be transcribed", code="too_many_requests"
            )
        await self._take_item(None)
        if self._detection is not None:
            self._detection.begin_anew()

    async def _take_item(self, end: int | None) -> None:
        """Makes an item of the buffer, or of what is before sample `end`. Waits for room among
        those that are not transcribed yet."""
        model, options = self._options(self._settings, self._include)
        file, size = self._buffer.take(end)
        item = Item(self._next_item, file, size, model, options)
        self._next_item = _item_id()
        previous, self._last_item = self._last_item, item.id
        content = [{"type": "input_audio", "transcript": None}]
        described = {
            "id": item.id, "object": "realtime.item", "type": "message", "status": "completed",
            "role": "user", "content": content,
        }  # fmt: skip
        with ExitStack() as scope:
            scope.callback(file.close)
            await self._send(
                "input_audio_buffer.committed", item_id=item.id, previous_item_id=previous
            )
            for kind in ("conversation.item.added", "conversation.item.done"):
                await self._send(kind, previous_item_id=previous, item=described)
            await self._items.put(item)  # which closes the file from here on
            scope.pop_all()

    async def on_speech(self, start: int) -> None:
        """The next item begins with sample `start` of all that came."""
        place = {"audio_start_ms": _milliseconds(start), "item_id": self._next_item}
        await self._send("input_audio_buffer.speech_started", **place)

    async def on_pause(self, end: int) -> None:
        """The next item ends before sample `end`."""
        place = {"audio_end_ms": _milliseconds(end), "item_id": self._next_item}
        await self._send("input_audio_buffer.speech_stopped", **place)
        await self._take_item(end)

    def _options(
        self, settings: TranscriptionSettings, include: list[Any]
    ) -> tuple[ServedModel, dict[str, Any]]:
        """The model and the keywords of its transcription. Raises ApiError."""
        model = self._service.audio_model(settings.model)
        body = TranscriptionBody(language=settings.language, prompt=settings.prompt)
        logprobs = 0 if include else None
        return model, transcription_options(self._service, model, body, logprobs)

    # ------------------------------------------------------------------ events of the server

    async def _transcribe_items(self) -> None:
        while True:
            self._is_transcribing = False
            item = await self._items.get()
            self._is_transcribing = True
            with item.file:
                try:
                    with self._service.admission.admitted():
                        await self._transcribe(item)
                except ClientGone:
                    raise
                except Exception as error:
                    await self._send(
                        "conversation.item.input_audio_transcription.failed",
                        item_id=item.id, content_index=0, error=as_api_error(error).body()["error"],
                    )  # fmt: skip
            self._quiet_since = time.monotonic()

    async def _transcribe(self, item: Item) -> None:
        audio = item.model.engine.inputs.audio
        assert audio is not None
        upload = Upload(item.file, item.size, audio.sampling_rate)
        prefix, place = "conversation.item.input_audio_transcription", {"content_index": 0}
        pieces = heard_in_pieces(self._service, item.model, upload, item.options)
        async with aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, str):
                    await self._send(f"{prefix}.delta", item_id=item.id, **place, delta=piece)
                    continue
                wanted = item.options["params"].logprobs is not None
                await self._send(
                    f"{prefix}.completed", item_id=item.id, **place, transcript=piece.text,
                    logprobs=logprobs_of(item.model, piece.segments) if wanted else None,
                    usage=token_usage(item.model, piece),
                )  # fmt: skip

    async def _send(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "event_id": f"event_{secrets.token_hex(10)}", **fields}
        # In ASCII: what a client sent, and is told of, may hold what UTF-8 has no bytes for.
        await self._send_text(json.dumps(event))

    def _described(self) -> dict[str, Any]:
        audio = {
            "format": AudioFormat(type="audio/pcm").model_dump(),
            "transcription": self._settings.model_dump(exclude_none=True),
            "noise_reduction": None,
            "turn_detection": self._detection and self._detection.settings.model_dump(),
        }
        return {
            "id": self.id, "object": "realtime.transcription_session", "type": "transcription",
            "audio": {"input": audio}, "include": [LOGPROBS] if self._include else None,
        }  # fmt: skip
