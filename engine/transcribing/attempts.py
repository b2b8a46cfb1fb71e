"""One window's text: the requests that make it."""

import zlib
from dataclasses import dataclass

from antiphon.engine.deadline import Deadline
from antiphon.engine.outputs import CompletionOutput
from antiphon.engine.transcribing.request_engine import RequestEngine
from antiphon.inputs.calls.transcription import TranscriptionOptions
from antiphon.inputs.prepared import EncoderInput, Prepared
from antiphon.scheduler.request import Readout


@dataclass(frozen=True)
class Decoded:
    """What became of a window. `compression_ratio`: high where its text repeats itself."""

    output: CompletionOutput
    temperature: float
    compression_ratio: float
    language: str | None


class WindowDecoder:
    """Decodes the windows of one call."""

    def __init__(
        self, engine: RequestEngine, options: TranscriptionOptions, deadline: Deadline
    ) -> None:
        assert engine.inputs.whisper is not None
        self.engine, self.options, self.deadline = engine, options, deadline
        self.format = engine.inputs.whisper

    async def decode(self, media: EncoderInput, language: str | None) -> Decoded:
        options = self.options
        prompt = self.format.prompt(language, options.task, options.timestamps)
        opened = self.engine.submit(
            Prepared((media,), prompt, options.params),
            prompt,
            timestamps=options.timestamps,
            priority=options.priority,
            timeout=self.deadline.seconds_left,
            readouts=(Readout(prompt.index(self.format.start_id), self.format.no_speech_id),),
        )
        output = await self.engine.result(opened)
        temperature = options.params.temperature
        return Decoded(output, temperature, compression_ratio(output.text.strip()), language)


def compression_ratio(text: str) -> float:
    """High where the text repeats itself. As openai/whisper measures it."""
    content = text.encode()
    return len(content) / len(zlib.compress(content))
