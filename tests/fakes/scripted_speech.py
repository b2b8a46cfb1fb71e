"""An engine whose model plays a script, for transcriptions: it answers what was asked at once."""

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from antiphon.config.options import ModelOptions
from antiphon.engine.budget import ByteBudget
from antiphon.engine.outputs import CompletionOutput, Logprob, Transcription
from antiphon.engine.transcribing.transcriber import Transcriber
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor

RATE = 16_000
GOOD, BAD, LOOP = "wake me up", "turn off the", "la la " * 30


class ScriptedEngine:
    """Answers each request by `script`, from what was asked: the prompt, and keywords."""

    def __init__(self, folder: Path, window: Any = "full") -> None:
        self.inputs = InputProcessor(ModelConfig.load(ModelOptions(str(folder))), window)
        self.inputs.has_words = False  # nothing is heard, so no token has a time
        self.hold_memory = ByteBudget(1 << 40).hold
        self.begin(lambda asked: GOOD)

    def begin(self, script: Callable[[SimpleNamespace], Any]) -> None:
        self.script = script
        self.asked: list[SimpleNamespace] = []

    def submit(self, prepared: Any, prompt: list[int], **options: Any) -> Any:
        number = len(self.asked)
        asked = SimpleNamespace(
            prompt=prompt, media=prepared.media, params=prepared.params, number=number, **options
        )
        self.asked.append(asked)
        return asked

    async def result(self, asked: Any) -> CompletionOutput:
        await asyncio.sleep(0)
        if asked.params.logprob_token_ids:
            return self._languages(asked)
        answer = self.script(asked)
        text, avg, silence = answer if isinstance(answer, tuple) else (answer, -0.2, 0.01)
        ids = text if isinstance(text, list) else self.ids(text)
        return CompletionOutput(0, self.inputs.decode(ids), ids, "stop", None, None, avg, silence)

    def _languages(self, asked: Any) -> CompletionOutput:
        whisper = self.inputs.whisper
        assert whisper is not None
        likely = {"de": self.script(asked)}
        likely["en"] = 1 - likely["de"]
        row = {
            id_: Logprob(math.log(likely[code]), 1, code) for code, id_ in whisper.languages.items()
        }
        return CompletionOutput(0, "", [0], "stop", [row])

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.inputs.tokenizer(f" {text}", add_special_tokens=False).input_ids
        return ids

    def time(self, seconds: float) -> int:
        assert self.inputs.whisper is not None
        return self.inputs.whisper.first_timestamp_id + round(seconds / 0.02)

    def said(self, start: float, text: str, end: float) -> list[int]:
        return [self.time(start), *self.ids(text), self.time(end)]

    def cancel(self, asked: Any) -> None:
        pass

    async def run_in_thread(self, function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    def transcribe(self, seconds: float, **options: Any) -> Transcription:
        options = {"language": "en", **options}
        return asyncio.run(Transcriber(self).transcribe(noise(seconds), **options))


def noise(seconds: float) -> np.ndarray:
    samples = np.random.default_rng(0).standard_normal(round(seconds * RATE))
    return (samples * 0.1).astype(np.float32)
