"""Bodies of /v1/completions, /v1/chat/completions and /tokenize."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, Field

from antiphon.config.sampling import SamplingParams
from antiphon.inputs.prompts import Prompt
from antiphon.serve.errors import ApiError
from antiphon.serve.schemas.base import Body, Refusals

TokenIds = list[Annotated[int, Field(ge=0)]]
MOST_STOPS = 16
FREE_TEXT = "text is not restricted to a form yet"
NO_TOOLS = "these models call no tools"
SHARED_REFUSALS: Refusals = {
    "best_of": ((1,), "samples are not compared: ask for n, or for n of beam_size beams"),
    "use_beam_search": ((False,), "give beam_size, the number of beams"),
    "service_tier": (("auto", "default"), "all requests are of one tier: there is 'priority'"),
    "store": ((False,), "nothing is stored"),
    "metadata": (({},), "nothing is stored"),
    "prompt_cache_key": ((), "equal inputs are recognized by themselves"),
    "prompt_cache_retention": ((), "equal inputs are recognized by themselves"),
    "prompt_cache_options": ((), "equal inputs are recognized by themselves"),
}
# Fields that are handed to `SamplingParams` under their own names.
SAMPLING = (
    "n", "temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "min_tokens", "stop",
    "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "allowed_token_ids", "skip_special_tokens",
    "no_repeat_ngram_size", "beam_size", "length_penalty", "early_stopping", "patience",
)  # fmt: skip


def _few(stop: str | list[str] | None) -> str | list[str] | None:
    if isinstance(stop, list) and len(stop) > MOST_STOPS:
        raise ValueError(f"{len(stop)} texts: give at most {MOST_STOPS}")
    return stop


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class TextBody(Body):
    """What completions and chat completions share: OpenAI's fields, then vLLM's, then ours. What is
    left out is as the checkpoint says, else greedy."""

    model: str | None = None
    n: int | None = Field(None, ge=1, le=128)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = None
    max_tokens: int | None = Field(None, ge=1)
    stop: Annotated[str | list[str] | None, AfterValidator(_few)] = None
    seed: int | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop_token_ids: TokenIds | None = None
    allowed_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    no_repeat_ngram_size: int | None = None
    beam_size: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    patience: float | None = None
    priority: int | None = None

    source_language: str | None = None
    target_language: str | None = None
    timeout: float | None = Field(None, gt=0)

    def sampling(self, **more: Any) -> SamplingParams:
        """Raises SamplingError."""
        values = {name: getattr(self, name) for name in SAMPLING}
        if self.logit_bias is not None:
            values["logit_bias"] = dict(map(_biased, self.logit_bias.items()))
        values |= more
        return SamplingParams.of(
            {name: value for name, value in values.items() if value is not None}
        )


def _biased(entry: tuple[str, float]) -> tuple[int, float]:
    """Of JSON, whose keys are texts."""
    name, bias = entry
    if not re.fullmatch(r"-?(0|[1-9][0-9]{0,19})", name):
        raise ApiError(
            400, f"'logit_bias' has {name[:40]!r} where token ids must be", param="logit_bias"
        )
    return int(name), bias


class PromptPair(Body):
    """vLLM's form for a model with an encoder, whose decoder begins with a text as well."""

    encoder_prompt: str | TokenIds
    decoder_prompt: str | TokenIds | None = None


class CompletionBody(TextBody):
    refusals: ClassVar[Refusals] = {
        **SHARED_REFUSALS,
        "suffix": (("",), "nothing is inserted before a text"),
        "response_format": (({"type": "text"},), FREE_TEXT),
        "guided_json": ((), FREE_TEXT),
        "prompt_logprobs": ((), "an encoder's text has no probabilities"),
    }
    prompt: str | list[str] | TokenIds | list[TokenIds] | PromptPair | list[PromptPair]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)

    def prompts(self) -> list[Prompt]:
        """As the engine takes them."""
        prompt = self.prompt
        if isinstance(prompt, list) and not (prompt and isinstance(prompt[0], int)):
            return [_prompt(one) for one in prompt]
        return [_prompt(prompt)]


def _prompt(value: Any) -> Prompt:
    if isinstance(value, BaseModel):
        return {name: _prompt(part) for name, part in value if part is not None}
    return {"prompt_token_ids": value} if isinstance(value, list) else value


class InputAudio(Body):
    data: str = Field(description="base64 of an audio file")
    format: str | None = None


class ImageUrl(Body):
    url: str = Field(
        description="data:image/png;base64,..., or an address at one of `--allowed-media-domains`"
    )
    detail: Literal["auto"] | None = None  # images have the size that the model gives them


class VideoUrl(Body):
    url: str = Field(
        description="data:video/mp4;base64,..., or an address at one of `--allowed-media-domains`"
    )


class Part(Body):
    """One part of a message."""

    type: Literal["text", "input_audio", "image_url", "video_url", "file", "refusal"]
    text: str | None = None
    input_audio: InputAudio | None = None
    image_url: ImageUrl | None = None
    video_url: VideoUrl | None = None
    file: Any = None
    refusal: Any = None


class Message(Body):
    """OpenAI's client gives back the answers that it got, with all their fields."""

    refusals: ClassVar[Refusals] = {
        "refusal": (("",), "no model here is told of refusals"),
        "audio": ((), "these models write text"),
        "annotations": (([],), "these models cite nothing"),
        "tool_calls": (([],), NO_TOOLS),
        "tool_call_id": ((), NO_TOOLS),
        "function_call": ((), NO_TOOLS),
    }
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None


class ChatBody(TextBody):
    refusals: ClassVar[Refusals] = {
        **SHARED_REFUSALS,
        "audio": ((), "these models write text"),
        "modalities": ((["text"],), "these models write text"),
        "response_format": (({"type": "text"},), FREE_TEXT),
        "tools": (([],), NO_TOOLS),
        "tool_choice": (("none",), NO_TOOLS),
        "parallel_tool_calls": ((False,), NO_TOOLS),
        "functions": (([],), NO_TOOLS),
        "function_call": (("none",), NO_TOOLS),
        "prediction": ((), "nothing is predicted"),
        "reasoning_effort": (("none",), "these models do not reason"),
        "verbosity": ((), "these models follow no instructions on length: give max_tokens"),
        "web_search_options": ((), "nothing is searched"),
        "moderation": ((), "nothing is moderated"),
    }
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    safety_identifier: str | None = None


class TokenizeBody(Body):
    model: str | None = None
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False
