"""Fields of /v1/audio/transcriptions and /v1/audio/translations."""

import json
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from antiphon.config.sampling import SamplingParams
from antiphon.serve.errors import refused
from antiphon.serve.schemas.base import Body, Refusals

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
NO_SPEAKERS = "speakers are not told apart yet"
# Sent as `name[]`, once for each value.
LISTS = (
    "timestamp_granularities", "include", "keywords", "languages", "known_speaker_names",
    "known_speaker_references",
)  # fmt: skip
SHARED: Refusals = {
    "known_speaker_names": ((), NO_SPEAKERS),
    "known_speaker_references": ((), NO_SPEAKERS),
    "keywords": ((), "give hotwords"),
    "languages": ((), "one language is set, or detected among all: give language"),
}


class AudioBody(Body):
    """What both endpoints take. Form fields are text."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    refusals: ClassVar[Refusals] = SHARED
    task: ClassVar[str] = "transcribe"

    model: str | None = None
    prompt: str | None = None
    hotwords: str | None = None
    vad_filter: bool = False
    response_format: Format = "json"
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    language: str | None = None
    seed: int | None = None
    priority: int | None = None
    timeout: Annotated[float, Field(gt=0)] | None = None
    user: str | None = None

    @field_validator("response_format", mode="before")
    @classmethod
    def _known_format(cls, value: Any) -> Any:
        if value == "diarized_json":
            raise refused("response_format", NO_SPEAKERS)
        return value

    @property
    def timed(self) -> bool:
        """Whether the answer has segments."""
        return self.response_format in ("srt", "vtt", "verbose_json")

    @property
    def with_words(self) -> bool:
        """Whether the answer has words of their own times."""
        return False

    @property
    def vad_parameters(self) -> dict[str, float] | None:
        """As transcribe() has them; None: nothing is said of them."""
        return None

    def sampling(self, **more: Any) -> SamplingParams:
        """Raises SamplingError."""
        values = {"seed": self.seed, **more}
        return SamplingParams.of(
            {name: value for name, value in values.items() if value is not None}
        )


class TranslationBody(AudioBody):
    """`language`: of the recording; English comes out."""

    task: ClassVar[str] = "translate"


class ServerVadChunks(Body):
    """Only what voice activity detection finds is heard. OpenAI's names and defaults."""

    type: Literal["server_vad"]
    threshold: float = Field(0.5, ge=0, le=1)
    prefix_padding_ms: int = Field(300, ge=0, le=10_000)
    silence_duration_ms: int = Field(200, ge=0, le=60_000)


class TranscriptionBody(AudioBody):
    timestamp_granularities: list[Literal["segment", "word"]] | None = None
    include: list[Literal["logprobs"]] | None = None
    chunking_strategy: Literal["auto"] | ServerVadChunks | None = None
    stream: bool = False

    @field_validator("timestamp_granularities")
    @classmethod
    def _with_verbose_json(cls, value: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if value and info.data.get("response_format") != "verbose_json":
            raise refused("timestamp_granularities", "set response_format to verbose_json")
        return value

    @property
    def with_words(self) -> bool:
        return "word" in (self.timestamp_granularities or ())

    @field_validator("chunking_strategy", mode="before")
    @classmethod
    def _known_strategy(cls, value: Any) -> Any:
        """'auto' cuts at quiet places. A form may have the other one as JSON."""
        if isinstance(value, str) and value.startswith("{"):
            with suppress(ValueError, RecursionError):
                value = json.loads(value)
        is_known = isinstance(value, dict) and value.get("type") == "server_vad"
        if not is_known and value not in (None, "", "auto"):
            raise refused("chunking_strategy", "there are 'auto' and {'type': 'server_vad'}")
        return value or None

    @property
    def vad_parameters(self) -> dict[str, float] | None:
        chunks = self.chunking_strategy
        if not isinstance(chunks, ServerVadChunks):
            return None
        return {
            "threshold": chunks.threshold,
            "speech_pad_ms": chunks.prefix_padding_ms,
            "min_silence_duration_ms": chunks.silence_duration_ms,
        }

    @field_validator("include")
    @classmethod
    def _with_json(cls, value: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if value and info.data.get("response_format") != "json":
            raise refused("include", "log-probabilities come with response_format json alone")
        return value

    @field_validator("stream")
    @classmethod
    def _streams_json(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("response_format") != "json":
            raise refused("stream", "response_format json alone is streamed")
        if value and info.data.get("include"):
            raise refused("include", "log-probabilities come with whole texts, not with a stream")
        return value
