"""Recordings on their way through the engine: measured before, counted after."""

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from antiphon.config.errors import AudioError
from antiphon.engine.outputs import Transcription
from antiphon.serve.errors import ApiError
from antiphon.serve.service import ServedModel, Service
from antiphon.serve.uploads import Upload, too_long


async def measured(
    service: Service, model: ServedModel, upload: Upload, options: dict[str, Any]
) -> dict[str, Any]:
    """The keywords of the engine's transcribe(), which check the length once more. Raises ApiError
    for an empty file, and for one that is too long as its packets say."""
    longest = service.limits.audio_seconds
    if not upload.size:
        raise ApiError(400, "'file' is empty", param="file")
    if not upload.is_surely_within(longest):
        await model.engine.run_in_thread(upload.check_length, longest)

    def check(_: float, in_all: float) -> None:
        if in_all > longest:  # its packets did not say so
            raise too_long(longest)

    return {**options, "progress": check}


async def heard(
    service: Service, model: ServedModel, upload: Upload, options: dict[str, Any]
) -> Transcription:
    """A whole transcription. Raises ApiError or AntiphonError."""
    began = time.monotonic()
    options = await measured(service, model, upload, options)
    with _its_errors(upload):
        result = await model.engine.transcribe(upload, **options)
    service.metrics.note_transcription(model.name, result, time.monotonic() - began)
    return result


async def heard_in_pieces(
    service: Service, model: ServedModel, upload: Upload, options: dict[str, Any]
) -> AsyncGenerator[str | Transcription, None]:
    """Pieces of its text, then the whole. Raises as `heard`."""
    began = time.monotonic()
    options = await measured(service, model, upload, options)
    with _its_errors(upload):
        async with aclosing(model.engine.stream_transcription(upload, **options)) as pieces:
            async for piece in pieces:
                if not isinstance(piece, str):
                    service.metrics.note_transcription(model.name, piece, time.monotonic() - began)
                yield piece


@contextmanager
def _its_errors(upload: Upload) -> Iterator[None]:
    """What is wrong with the recording is said of the field that it came in."""
    try:
        yield
    except AudioError as error:
        error.parameter = upload.param
        raise


def num_tokens(result: Transcription) -> int:
    return sum(len(segment.token_ids) for segment in result.segments)


def encoder_tokens(model: ServedModel, result: Transcription) -> int:
    """As many positions of the encoder as the sound fills."""
    inputs = model.engine.inputs
    assert inputs.audio is not None
    return round(result.duration / inputs.audio.window_seconds * inputs.model.max_encoder_len)


def token_usage(model: ServedModel, result: Transcription) -> dict[str, Any]:
    """What events of streams and sessions say of it."""
    num_inputs, num_outputs = encoder_tokens(model, result), num_tokens(result)
    return {
        "type": "tokens",
        "input_tokens": num_inputs,
        "output_tokens": num_outputs,
        "total_tokens": num_inputs + num_outputs,
        "input_token_details": {"audio_tokens": num_inputs, "text_tokens": 0},
    }
