"""What the engine returns."""

from dataclasses import dataclass, field

from antiphon.config.errors import AntiphonError
from antiphon.inputs.audio.sound import Skipped
from antiphon.scheduler.request import RequestMetrics


@dataclass(frozen=True)
class Logprob:
    """Natural logarithm of a token's probability under the raw logits, and its rank from 1."""

    logprob: float
    rank: int
    decoded_token: str


@dataclass(frozen=True)
class CompletionOutput:
    """One sample. `finish_reason`: 'stop' or 'length'. `logprobs`: per token, if requested.

    cumulative_logprob: sum of the natural logarithms of the tokens' probabilities under the raw
        logits, as in vLLM. None if the request went on elsewhere after the death of its worker,
        with tokens of which only the ids were left.
    avg_logprob: what openai-whisper calls so: their mean under the logits that the rules have
        changed (suppressed tokens, timestamps), the token that ends the text included, and those
        that were computed behind a stop string before it was found. None likewise.
    score: what a beam search ranked it by: the sum under the rules, by its length as the search's
        rule has it.
    no_speech_prob: of a window of a transcription, the probability of Whisper's <|nospeech|> behind
        the start token.
    token_frames: of a window of a transcription with words, the encoder token at which each token
        begins; -1 for timestamps. The token that ended the text tells where its last word ends.
    token_logprobs: natural logarithms of the tokens' probabilities under the raw logits.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None
    logprobs: list[dict[int, Logprob]] | None = None
    cumulative_logprob: float | None = None
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    score: float | None = None
    token_frames: list[int] | None = field(repr=False, default=None)
    token_logprobs: list[float] | None = field(repr=False, default=None)


@dataclass(frozen=True)
class RequestOutput:
    """The end of one prompt. If it failed, `error` says why, and reading `outputs` raises it."""

    request_id: str
    prompt_token_ids: list[int]
    completions: list[CompletionOutput] = field(repr=False, default_factory=list)
    metrics: RequestMetrics | None = field(repr=False, default=None)
    error: AntiphonError | None = None

    @property
    def outputs(self) -> list[CompletionOutput]:
        if self.error is not None:
            raise self.error
        return self.completions


@dataclass(frozen=True)
class StreamDelta:
    """New text and tokens of a streamed request, without the one that ends it.

    On the last one are set `finish_reason` and `num_tokens`: of the whole output, as many as the
    `token_ids` of a CompletionOutput, with the one that ended it.
    """

    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    num_tokens: int | None = None


@dataclass(frozen=True)
class Word:
    """Seconds from the start of the recording. `text` with the blank before it, so that all words
    together are the text. `probability`: the mean of its tokens'."""

    start: float
    end: float
    text: str
    probability: float | None = None


@dataclass(frozen=True)
class Segment:
    """Seconds from the start of the recording. `text` is without blanks at its ends; `token_ids`
    are those of the text alone; `logprobs` belong to them, if requested.

    `id`: its number in the recording. `seek`: where its window begins, in hundredths of a second.
    `avg_logprob`, `no_speech_prob`, `compression_ratio` and `temperature` are those of the window,
    as in openai-whisper. `language`: that of its window. `words`: if requested.
    """

    start: float
    end: float
    text: str
    token_ids: list[int] = field(repr=False, default_factory=list)
    logprobs: list[dict[int, Logprob]] | None = field(repr=False, default=None)
    avg_logprob: float | None = field(repr=False, default=None)
    no_speech_prob: float | None = field(repr=False, default=None)
    id: int = field(repr=False, default=0)
    seek: int = field(repr=False, default=0)
    temperature: float = field(repr=False, default=0.0)
    compression_ratio: float = field(repr=False, default=1.0)
    language: str | None = field(repr=False, default=None)
    words: tuple[Word, ...] | None = field(repr=False, default=None)


@dataclass(frozen=True)
class Transcription:
    """`text` joins all segments as their tokens say: with blanks only where the language has them.

    `language_probability`: of `language` among the checkpoint's languages, if it was detected;
    `language_probabilities`: of all of them, likeliest first. `skipped`: spans without text,
    because they could not be decoded, or hold digital silence or no speech. `duration_after_vad`:
    seconds that were heard: of the clips, what voice activity detection left.
    """

    text: str
    language: str | None
    segments: list[Segment]
    duration: float  # seconds
    language_probability: float | None = None
    skipped: list[Skipped] = field(default_factory=list)
    language_probabilities: dict[str, float] | None = field(repr=False, default=None)
    duration_after_vad: float | None = field(repr=False, default=None)
