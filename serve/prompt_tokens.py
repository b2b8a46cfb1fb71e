"""Prompts checked and counted before anything is spent on them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from antiphon.config.errors import ImageError, PromptError, VideoError
from antiphon.config.sampling import SamplingParams
from antiphon.engine.deadline import Deadline
from antiphon.inputs.prepared import Prepared, tokens_beside_prompt
from antiphon.inputs.prompts import Prompt
from antiphon.serve.beam_fields import check_beam_fields
from antiphon.serve.errors import ApiError
from antiphon.serve.schemas.text import TextBody
from antiphon.serve.service import ServedModel


@dataclass(frozen=True)
class CheckedPrompt:
    """`prompt`: as it was given. `prepared`: for the engine, which need not read it again."""

    prompt: Prompt
    prepared: Prepared

    @property
    def num_tokens(self) -> int:
        """Of the encoder's output and the decoder's prompt, as they are billed."""
        prepared = self.prepared
        return tokens_beside_prompt(prepared.inputs) + len(prepared.prompt_token_ids or ())


@asynccontextmanager
async def checked(
    model: ServedModel,
    prompts: list[Prompt],
    params: SamplingParams,
    body: TextBody,
    param: str,
    deadline: Deadline,
) -> AsyncIterator[list[CheckedPrompt]]:
    """`param`: the field that the prompts are of. Their memory is held until the scope ends.
    Raises ApiError and InputError for a prompt that the model can't take, and RequestExpired: an
    image may have to be fetched."""
    check_beam_fields(model, params)
    languages = (body.source_language, body.target_language)
    async with AsyncExitStack() as scope:
        try:
            async with deadline.limit():
                ready = await scope.enter_async_context(
                    model.engine.preparation.all_prepared(prompts, params, languages)
                )
        except (ImageError, PromptError, VideoError) as error:
            own = param if languages == (None, None) else None
            raise ApiError(400, str(error), param=error.parameter or own) from None
        for prepared in ready:
            _check_room(model, prepared, params, body)
        pairs = zip(prompts, ready, strict=True)
        yield [CheckedPrompt(prompt, prepared) for prompt, prepared in pairs]


def _check_room(
    model: ServedModel, prepared: Prepared, params: SamplingParams, body: TextBody
) -> None:
    """Raises ApiError for more tokens than the decoder has positions: the engine, which would
    refuse them, knows no fields."""
    inputs, num_prompt = model.engine.inputs, len(prepared.prompt_token_ids or ())
    most, positions = inputs.max_tokens(num_prompt, params), inputs.model.max_decoder_len
    if num_prompt + most > positions:
        names = ("max_completion_tokens", "max_tokens")
        field = next((name for name in names if getattr(body, name, None)), "min_tokens")
        raise ApiError(
            400,
            f"{num_prompt} tokens of the prompt and {field}={most} are over the decoder's "
            f"{positions}: lower {field}",
            param=field,
        )


def call_options(body: TextBody, deadline: Deadline) -> dict[str, Any]:
    """The keywords of the engine's calls, for a call that begins now."""
    return {
        "priority": body.priority or 0,
        "timeout": deadline.seconds_left,
        "source_language": body.source_language,
        "target_language": body.target_language,
    }
