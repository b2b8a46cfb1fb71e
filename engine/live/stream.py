"""Live transcription through an engine."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, cast

from antiphon.config.errors import PromptError
from antiphon.engine.live.chunks import checked_chunks, stream_of
from antiphon.engine.live.options import LiveOptions
from antiphon.engine.live.sound import LiveSound
from antiphon.engine.live.transcriber import LiveTranscriber, LiveUpdate
from antiphon.engine.open_request import OpenRequest
from antiphon.engine.transcribing.request_engine import RequestEngine
from antiphon.engine.transcribing.transcriber import Transcriber
from antiphon.inputs.prepared import Prepared


class HeardOnce:
    """`engine`, but nobody will ask for the inputs of its requests again: it forgets them first."""

    def __init__(self, engine: RequestEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(
        self, prepared: Prepared, prompt_token_ids: list[int], **options: Any
    ) -> OpenRequest:
        inputs = tuple(replace(media, keep=False) for media in prepared.inputs)
        prepared = replace(prepared, inputs=inputs)
        return self._engine.submit(prepared, prompt_token_ids, **options)


async def live_updates(
    engine: RequestEngine,
    chunks: AsyncIterable[Any] | Iterable[Any],
    sampling_rate: Any,
    options: dict[str, Any],
) -> AsyncGenerator[LiveUpdate, None]:
    """As `AsyncEngine.live`."""
    transcriber = Transcriber(cast(RequestEngine, HeardOnce(engine)))
    audio, chunks = transcriber.audio, checked_chunks(chunks)
    if not transcriber.inputs.has_words:
        raise PromptError(
            "live() needs times of words: this model tells none, or the engine option "
            "enable_word_timestamps is off"
        )
    chosen = LiveOptions.of(**options)
    keywords = {**chosen.transcription, "word_timestamps": True}
    transcriber.inputs.check_transcription(language=chosen.language, **keywords)
    live = LiveTranscriber(
        partial(transcriber.transcribe, **keywords),
        LiveSound(sampling_rate, audio.sampling_rate),
        audio.window,
        chosen,
    )
    async with aclosing(stream_of(chunks)) as stream, aclosing(live.run(stream)) as updates:
        async for update in updates:
            yield update
