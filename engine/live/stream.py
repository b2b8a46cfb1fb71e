"""Live transcription through an engine."""

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from functools import partial
from typing import Any

from antiphon.engine.live.chunks import checked_chunks, stream_of
from antiphon.engine.live.options import LiveOptions
from antiphon.engine.live.sound import LiveSound
from antiphon.engine.live.transcriber import LiveTranscriber, LiveUpdate
from antiphon.engine.transcribing.request_engine import RequestEngine
from antiphon.engine.transcribing.transcriber import Transcriber


async def live_updates(
    engine: RequestEngine,
    chunks: AsyncIterable[Any] | Iterable[Any],
    sampling_rate: Any,
    options: dict[str, Any],
) -> AsyncGenerator[LiveUpdate, None]:
    """As `AsyncEngine.live`."""
    transcriber = Transcriber(engine, keep=False)  # nobody else will hear the same
    audio, chunks = transcriber.audio, checked_chunks(chunks)
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
