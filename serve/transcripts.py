"""Transcriptions in OpenAI's formats."""

from typing import Any

from fastapi.responses import JSONResponse, PlainTextResponse, Response

from antiphon.engine.output_formats import as_srt, as_vtt, segment_mapping, word_mapping
from antiphon.engine.outputs import Segment, Transcription
from antiphon.inputs.languages.names import NAMES
from antiphon.serve.replies import token_entry
from antiphon.serve.schemas.audio import AudioBody, TranscriptionBody
from antiphon.serve.service import ServedModel

SRT, VTT = "application/x-subrip", "text/vtt"
TEXTS = ("text/plain", SRT, VTT)  # what answer() gives beside JSON


def answer(model: ServedModel, result: Transcription, body: AudioBody) -> Response:
    match body.response_format:
        case "text":
            return PlainTextResponse(f"{result.text}\n")
        case "srt":
            return PlainTextResponse(as_srt(result), media_type=SRT)
        case "vtt":
            return PlainTextResponse(as_vtt(result), media_type=VTT)
        case "verbose_json":
            return JSONResponse(_verbose(result, body))
        case "json":
            reply: dict[str, Any] = {"text": result.text, "usage": usage(result)}
            if isinstance(body, TranscriptionBody) and body.include:
                reply["logprobs"] = logprobs_of(model, result.segments)
            return JSONResponse(reply)


def usage(result: Transcription) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(result.duration, 3)}


def _verbose(result: Transcription, body: AudioBody) -> dict[str, Any]:
    reply = {
        "task": body.task,
        "language": NAMES.get(result.language or "", result.language),
        "duration": result.duration,
        "text": result.text,
        "segments": [_segment(segment, body.with_words) for segment in result.segments],
        "usage": usage(result),
    }
    if body.with_words:
        reply["words"] = [
            {"word": word.text.strip(), "start": word.start, "end": word.end}
            for segment in result.segments
            for word in segment.words or ()
        ]
    return reply


def _segment(segment: Segment, with_words: bool) -> dict[str, Any]:
    """`with_words`: also in openai/whisper's form, with their blanks and probabilities."""
    words = [word_mapping(word) for word in segment.words or ()]
    return {**segment_mapping(segment), **({"words": words} if with_words else {})}


def logprobs_of(model: ServedModel, segments: list[Segment]) -> list[dict[str, Any]]:
    """Of all tokens, which were asked for with `logprobs`."""
    return [
        token_entry(model, id_, row[id_])
        for segment in segments
        for id_, row in zip(segment.token_ids, segment.logprobs or [], strict=True)
    ]
