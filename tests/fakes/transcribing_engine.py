"""An engine of plain objects for transcriptions: what `Transcriber` uses, over `PlainEngine`."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from plain_engine import PlainEngine

from antiphon.config.options import ModelOptions
from antiphon.engine.budget import ByteBudget
from antiphon.engine.completion import completion_output
from antiphon.engine.outputs import CompletionOutput, Transcription
from antiphon.engine.transcribing.transcriber import Transcriber
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.prepared import EncoderInput, Prepared
from antiphon.inputs.processor import InputProcessor


class TranscribingEngine:
    def __init__(self, folder: Path) -> None:
        self.model = ModelConfig.load(ModelOptions(str(folder)))
        self.inputs = InputProcessor(self.model)
        assert self.inputs.whisper is not None
        self.plain = PlainEngine(folder, timestamps=self.inputs.whisper.rules())
        self.asked: list[dict[str, Any]] = []
        self.delay = 0.0
        self.hold_memory = ByteBudget(1 << 40).hold

    def submit(self, prepared: Prepared, prompt: list[int], **options: Any) -> Any:
        self.asked.append({"prompt": prompt, **options})
        params = prepared.params
        request = self.plain.request(
            prepared.media.payload,
            prompt,
            self.inputs.max_tokens(len(prompt), params),
            self.inputs.rules(
                len(prompt), params, options["timestamps"], options.get("rule_changes")
            ),
            params=params,
            priority=options["priority"],
            readouts=options.get("readouts", ()),
            alignment=options.get("alignment"),
            begun=options.get("begun", 0),
        )
        self.plain.submit(request)
        return request

    async def result(self, request: Any) -> CompletionOutput:
        while request.id.number not in self.plain.finished:
            self.plain.step()
            await asyncio.sleep(self.delay)
        end = self.plain.finished[request.id.number]
        return completion_output(self.inputs, SimpleNamespace(request=request, text=None), end, 0)

    def cancel(self, request: Any) -> None:
        pass

    def stored(self, media: EncoderInput) -> EncoderInput:
        return media

    async def run_in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.to_thread(function, *arguments)

    def transcribe(self, audio: Any, **options: Any) -> Transcription:
        return asyncio.run(Transcriber(self).transcribe(audio, **options))

    def detect(self, audio: Any, **options: Any) -> dict[str, float]:
        return asyncio.run(Transcriber(self).detect_languages(audio, **options))
