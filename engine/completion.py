"""From the end of a request to the output that its caller gets."""

import math
from collections.abc import Sequence

from antiphon.engine.open_request import OpenRequest
from antiphon.engine.outputs import CompletionOutput, Logprob
from antiphon.inputs.detokenizer import TextStream
from antiphon.inputs.processor import InputProcessor
from antiphon.scheduler.generated import TokenLogprobs
from antiphon.scheduler.request import Finished


def completion_outputs(
    inputs: InputProcessor, samples: Sequence[OpenRequest], ends: Sequence[Finished]
) -> list[CompletionOutput]:
    """The outputs of a prompt: one of each of its `samples`, whose `ends` these are, or all that
    the beam search of a single one returns."""
    if samples[0].request.rules.beams is None:
        indexed = enumerate(zip(samples, ends, strict=True))
        return [completion_output(inputs, opened, end, index) for index, (opened, end) in indexed]
    outputs = enumerate(ends[0].results())
    return [completion_output(inputs, samples[0], end, index) for index, end in outputs]


def completion_output(
    inputs: InputProcessor, opened: OpenRequest, finished: Finished, index: int
) -> CompletionOutput:
    """The output of a request that is done. `index`: of the sample among those of its prompt."""
    params = opened.request.params
    reason: str | None
    written = _text_up_to_stop(opened, finished, index)
    if written is not None and written.stopped:
        token_ids, text, reason = list(written.token_ids), written.text, "stop"
    else:
        token_ids, reason = finished.token_ids, finished.reason
        text = inputs.decode(_without_stop_token(opened, finished), params.skip_special_tokens)
    logprobs = None
    if params.logprobs is not None:
        logprobs = [_named(inputs, token) for token in finished.logprobs[: len(token_ids)]]
    return CompletionOutput(
        index,
        text,
        token_ids,
        reason,
        logprobs,
        cumulative_logprob=_known(sum(finished.token_logprobs[: len(token_ids)])),
        avg_logprob=_known(_average(opened, finished)),
        no_speech_prob=_no_speech(finished),
        score=finished.score,
        token_frames=finished.frames,
        token_logprobs=finished.token_logprobs[: len(token_ids)],
    )


def _text_up_to_stop(opened: OpenRequest, finished: Finished, index: int) -> TextStream | None:
    """The text so far of a request that has stop strings. It came with its tokens, but for the
    second and further results of a beam search, whose text is made here."""
    if opened.request.rules.beams is None or index == 0 or opened.new_text is None:
        return opened.text
    text = opened.new_text()
    text.add(_before_stop_token(opened, finished))
    return text


def _no_speech(finished: Finished) -> float | None:
    """The answer to the only readout that is asked for, by transcriptions."""
    answer = finished.readout_values.get(0)
    return None if answer is None else math.exp(answer.logprob)


def _average(opened: OpenRequest, finished: Finished) -> float:
    """The mean log-probability under the rules, as openai-whisper counts: of the tokens and of the
    one that ends them, which counts also where the length ended them. Tokens of the prompt that
    begin the text are certain. All that was computed counts, also behind a stop string."""
    tokens, request = finished.token_ids, opened.request
    ended_by_token = bool(tokens) and tokens[-1] in request.rules.stop_ids
    return finished.restricted_logprob / (request.begun + len(tokens) + (not ended_by_token))


def _known(logprob: float) -> float | None:
    return None if math.isnan(logprob) else logprob


def _without_stop_token(opened: OpenRequest, finished: Finished) -> list[int]:
    """The tokens to show: the one that ended the output is dropped like a special token."""
    if opened.request.params.skip_special_tokens:
        return _before_stop_token(opened, finished)
    return finished.token_ids


def _before_stop_token(opened: OpenRequest, finished: Finished) -> list[int]:
    token_ids = finished.token_ids
    ended_by_token = finished.reason == "stop" and token_ids[-1] in opened.request.rules.stop_ids
    return token_ids[:-1] if ended_by_token else token_ids


def _named(inputs: InputProcessor, token: TokenLogprobs) -> dict[int, Logprob]:
    """By token id. In reverse, so that the chosen token's entry wins if an id occurs twice."""
    rows = list(zip(token.ids, token.logprobs, token.ranks, strict=True))
    return {
        id_: Logprob(value, rank, inputs.decode([id_], skip_special_tokens=False))
        for id_, value, rank in reversed(rows)
    }
