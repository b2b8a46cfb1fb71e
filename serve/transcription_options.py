"""From the fields of a request to the keywords of the engine's transcribe()."""

from typing import Any

from antiphon.config.errors import ConfigurationError, PromptError
from antiphon.serve.errors import ApiError, refused
from antiphon.serve.schemas.audio import AudioBody
from antiphon.serve.service import ServedModel, Service


def transcription_options(
    service: Service, model: ServedModel, body: AudioBody, logprobs: int | None = None
) -> dict[str, Any]:
    """Checked before the recording is read. Raises ApiError and InputError."""
    options: dict[str, Any] = {
        "language": body.language,
        "task": body.task,
        "timestamps": body.timed,
        "params": body.sampling(logprobs=logprobs),
        "priority": body.priority or 0,
        "timeout": service.deadline(body.timeout),
    }
    if body.with_words:
        if not model.engine.inputs.has_words:
            reason = "times of words are turned off here: ask for segments"
            raise refused("timestamp_granularities", reason)
        options["word_timestamps"] = True
    if body.prompt:
        options["prompt"] = body.prompt
    try:
        model.engine.inputs.check_transcription(**options)
    except ConfigurationError as error:
        raise refused("prompt", str(error).partition(": ")[2] or str(error)) from None
    except PromptError as error:
        raise ApiError(400, str(error), param="language" if body.language else None) from None
    return options
