"""Prompts checked and counted before anything is spent on them."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from antiphon.config.errors import ImageError, PromptError, RequestExpired, VideoError
from antiphon.config.sampling import SamplingParams
from antiphon.inputs.prepared import Prepared, tokens_beside_prompt
from antiphon.inputs.prompts import Prompt
from antiphon.serve.beam_fields import check_beam_fields
from antiphon.serve.errors import ApiError
from antiphon.serve.schemas.text import TextBody
from antiphon.serve.service import ServedModel

MOMENT = 0.001  # seconds; a timeout must be more than 0


@dataclass(frozen=True)
class CheckedPrompt:
    """`prompt`: as it was given. `prepared`: for the engine, which need not read it again.
    `num_tokens`: of the encoder's output and the decoder's prompt, as they are billed."""

    prompt: Prompt
    prepared: Prepared
    num_tokens: int


async def checked(
    model: ServedModel,
    prompts: list[Prompt],
    params: SamplingParams,
    body: TextBody,
    param: str,
    seconds: float,
) -> tuple[list[CheckedPrompt], float]:
    """`param`: the field that the prompts are of. Returns also what is left of the `seconds`: an
    image may have to be fetched. Raises ApiError and InputError for a prompt that the model can't
    take."""
    check_beam_fields(model, params)
    began = time.monotonic()
    engine = model.engine

    def check(prompt: Prompt) -> CheckedPrompt:
        prepared = engine.inputs.prepare(prompt, params, body.source_language, body.target_language)
        num_tokens = tokens_beside_prompt(prepared.inputs)
        return CheckedPrompt(prompt, prepared, num_tokens + len(prepared.prompt_token_ids or ()))

    def check_all() -> list[CheckedPrompt]:
        return [check(prompt) for prompt in prompts]

    try:
        async with asyncio.timeout(seconds):
            ready = await engine.run_in_thread(check_all)
    except TimeoutError:
        raise RequestExpired(f"reading the prompt took {seconds:g} s") from None
    except (ImageError, PromptError, VideoError) as error:
        is_of_prompt = body.source_language is None and body.target_language is None
        own = param if is_of_prompt else None
        raise ApiError(400, str(error), param=error.parameter or own) from None
    return ready, max(MOMENT, seconds - (time.monotonic() - began))


def call_options(body: TextBody, seconds: float) -> dict[str, Any]:
    """The keywords of the engine's calls."""
    return {
        "priority": body.priority or 0,
        "timeout": seconds,
        "source_language": body.source_language,
        "target_language": body.target_language,
    }
