"""From the fields of a request to the keywords of the engine's transcribe()."""

from typing import Any

from antiphon.config.errors import PromptError
from antiphon.serve.errors import ApiError, refused
from antiphon.serve.schemas.audio import AudioBody
from antiphon.serve.service import ServedModel, Service

# Of a request, by the keywords that they become, where those are called otherwise.
FIELDS = {"initial_prompt": "prompt", "vad_parameters": "chunking_strategy"}


def transcription_options(
    service: Service, model: ServedModel, body: AudioBody, logprobs: int | None = None
) -> dict[str, Any]:
    """Checked before the recording is read. Raises ApiError and InputError."""
    options: dict[str, Any] = {
        "language": body.language,
        "task": body.task,
        "timestamps": body.timed,
        "temperature": _temperature(model, body),
        "initial_prompt": body.prompt or None,
        "hotwords": body.hotwords or None,
        "vad_filter": body.vad_filter or body.vad_parameters is not None,
        "vad_parameters": body.vad_parameters,
        "params": body.sampling(logprobs=logprobs),
        "priority": body.priority or 0,
        "timeout": service.deadline(body.timeout),
    }
    if body.with_words:
        if not model.engine.inputs.has_words:
            reason = "times of words are turned off here, or unknown to this model"
            raise refused("timestamp_granularities", f"{reason}: ask for segments")
        options["word_timestamps"] = True
    try:
        model.engine.inputs.check_transcription(**options)
    except PromptError as error:
        keyword, message = error.parameter or "", str(error)
        field = FIELDS.get(keyword, keyword)
        if field != keyword:
            message = message.replace(keyword, field)
        raise ApiError(400, message, param=field or None) from None
    return options


def _temperature(model: ServedModel, body: AudioBody) -> float | None:
    """As OpenAI has it: 0 tries higher ones where the text is bad. So does no temperature, unless
    the checkpoint states one."""
    whisper = model.engine.inputs.whisper
    assert whisper is not None
    if body.temperature == 0 and whisper.temperature is None:
        return None
    return body.temperature
