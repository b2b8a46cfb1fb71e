"""What a client of /v1/realtime may set."""

from typing import ClassVar, Literal

from pydantic import Field

from antiphon.inputs.audio.voice_activity import VoiceOptions
from antiphon.serve.schemas.base import Body, Refusals

RATE: Literal[24000] = 24_000  # Hz, of 16-bit mono samples; the only form
NO_RESPONSES = "a transcription session makes no responses"
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


class ServerVad(Body):
    """Turns are found, and committed, by the server. OpenAI's names and defaults."""

    refusals: ClassVar[Refusals] = {
        "create_response": ((False,), NO_RESPONSES),
        "interrupt_response": ((False,), NO_RESPONSES),
        "idle_timeout_ms": ((), NO_RESPONSES),
        "eagerness": ((), "it is of semantic_vad"),
    }
    type: Literal["server_vad"]
    threshold: float = Field(0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(300, ge=0, le=10_000)
    silence_duration_ms: int = Field(500, ge=0, le=60_000)

    @property
    def voice(self) -> VoiceOptions:
        return VoiceOptions(
            threshold=self.threshold, min_silence_duration_ms=self.silence_duration_ms
        )

    @property
    def prefix(self) -> int:
        """Samples."""
        return self.prefix_padding_ms * RATE // 1000


class AudioInput(Body):
    refusals: ClassVar[Refusals] = {
        "noise_reduction": ((), "sound is taken as it is"),
    }
    format: AudioFormat | None = None
    transcription: TranscriptionSettings | None = None
    turn_detection: ServerVad | None = None


class SessionAudio(Body):
    input: AudioInput | None = None


class SessionSettings(Body):
    type: Literal["transcription"]
    audio: SessionAudio | None = None
    include: list[Literal["item.input_audio_transcription.logprobs"]] | None = None
