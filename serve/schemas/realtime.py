"""What a client of /v1/realtime may set."""

from typing import ClassVar, Literal

from antiphon.serve.schemas.base import Body, Refusals

RATE: Literal[24000] = 24_000  # Hz, of 16-bit mono samples; the only form
LOGPROBS = "item.input_audio_transcription.logprobs"


class TranscriptionSettings(Body):
    refusals: ClassVar[Refusals] = {
        "delay": ((), "text comes when the buffer is committed"),
        "keywords": ((), "give them in prompt, a text before the window"),
        "languages": ((), "one language is set, or detected among all"),
    }
    model: str | None = None
    language: str | None = None
    prompt: str | None = None


class AudioFormat(Body):
    type: Literal["audio/pcm"]
    rate: Literal[24000] = RATE


class AudioInput(Body):
    refusals: ClassVar[Refusals] = {
        "noise_reduction": ((), "sound is taken as it is"),
        "turn_detection": ((), "voice activity is not detected yet: commit the buffer yourself"),
    }
    format: AudioFormat | None = None
    transcription: TranscriptionSettings | None = None


class SessionAudio(Body):
    input: AudioInput | None = None


class SessionSettings(Body):
    type: Literal["transcription"]
    audio: SessionAudio | None = None
    include: list[Literal["item.input_audio_transcription.logprobs"]] | None = None
