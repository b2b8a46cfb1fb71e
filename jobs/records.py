"""What is written for a line that succeeded, and for one that failed."""

from typing import Any

import msgspec

from antiphon.config.errors import AntiphonError
from antiphon.engine.outputs import CompletionOutput, Logprob, RequestOutput, Segment, Transcription
from antiphon.jobs.entries import Entry

Record = dict[str, Any]
MESSAGE_CHARACTERS = 2000  # of an error's message that are kept


def of_transcription(entry: Entry, result: Transcription) -> Record:
    """Times are those of the whole recording, also for a part of it."""
    start = entry.span[0] if entry.span else 0.0
    return {
        **_head(entry),
        "text": result.text,
        "language": result.language,
        "language_probability": result.language_probability,
        "duration": result.duration,
        "segments": [_segment(segment, start) for segment in result.segments],
        "skipped": [
            {"start": start + span.start, "end": start + span.end, "reason": span.reason}
            for span in result.skipped
        ],
        **_tail(entry),
    }


def of_output(entry: Entry, result: RequestOutput) -> Record:
    """`outputs` is there for several samples, or with log-probabilities."""
    outputs = result.outputs
    first = outputs[0]
    record = {**_head(entry), "text": first.text, "finish_reason": first.finish_reason}
    if len(outputs) > 1 or first.logprobs is not None:
        record["outputs"] = [_output(output) for output in outputs]
    return {**record, **_tail(entry)}


def of_error(number: int, entry_id: Any, audio: Any, error: BaseException) -> Record:
    """`type` is the error's class. Messages are cut to MESSAGE_CHARACTERS."""
    record: Record = {"line": number, "id": entry_id}
    if isinstance(audio, str):
        record["audio"] = audio
    message = str(error) or repr(error)
    return {**record, "type": type(error).__name__, "message": message[:MESSAGE_CHARACTERS]}


def encoded(record: Record) -> bytes:
    """One line of JSON. Raises AntiphonError for what JSON cannot hold."""
    try:
        return msgspec.json.encode(record) + b"\n"
    except (TypeError, ValueError) as error:
        raise AntiphonError(f"the result cannot be written as JSON: {error}") from error


def _head(entry: Entry) -> Record:
    head: Record = {"line": entry.number, "id": entry.id}
    return {**head, "audio": entry.audio} if isinstance(entry.audio, str) else head


def _tail(entry: Entry) -> Record:
    return {"fields": entry.fields} if entry.fields else {}


def _segment(segment: Segment, start: float) -> Record:
    record: Record = {
        "start": start + segment.start,
        "end": start + segment.end,
        "text": segment.text,
    }
    return record | _tokens(segment.token_ids, segment.logprobs)


def _output(output: CompletionOutput) -> Record:
    record = {"index": output.index, "text": output.text, "finish_reason": output.finish_reason}
    return record | _tokens(output.token_ids, output.logprobs)


def _tokens(token_ids: list[int], logprobs: list[dict[int, Logprob]] | None) -> Record:
    return {} if logprobs is None else {"token_ids": token_ids, "logprobs": logprobs}
