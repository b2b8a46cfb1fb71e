"""From the tokens of a recording's windows to its text and timed segments."""

from antiphon.config.sampling import SamplingParams
from antiphon.engine.outputs import CompletionOutput, Segment, Transcription
from antiphon.engine.windows import Recording, Window
from antiphon.inputs.calls.transcription import TranscriptionOptions
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.whisper.format import TimedTokens, WhisperFormat


def joined(
    inputs: InputProcessor,
    recording: Recording,
    outputs: list[CompletionOutput],
    options: TranscriptionOptions,
    language: str | None,
    probability: float | None,
) -> Transcription:
    """`outputs`: one for each window. `probability`: of the language, if it was detected."""
    assert inputs.whisper is not None
    segments: list[Segment] = []
    texts: list[str] = []
    for window, output in zip(recording.windows, outputs, strict=True):
        for timed in _timed(inputs.whisper, window, output, options.timestamps):
            raw = inputs.decode(timed.token_ids)
            if options.params.stop and timed.positions[-1] == len(output.token_ids) - 1:
                raw = _before_stop(raw, options.params)
            texts.append(raw)
            segments.append(_segment(window, output, timed, raw))
    if options.params.stop:
        text = "".join(texts)
    else:  # a character of several tokens may begin in one segment and end in the next
        text = inputs.decode([id_ for segment in segments for id_ in segment.token_ids])
    return Transcription(
        text.strip(), language, segments, recording.duration, probability, recording.skipped
    )


def _timed(
    format_: WhisperFormat, window: Window, output: CompletionOutput, timestamps: bool
) -> list[TimedTokens]:
    """Segments as the model marked them; without timestamps, one for the whole window."""
    if timestamps:
        return format_.segments(output.token_ids)
    positions = format_.text_positions(output.token_ids)
    if not positions:
        return []
    ids = [output.token_ids[position] for position in positions]
    return [TimedTokens(0.0, window.end - window.start, ids, positions)]


def _segment(window: Window, output: CompletionOutput, timed: TimedTokens, raw: str) -> Segment:
    start = min(window.start + timed.start, window.end)
    end = window.end if timed.end is None else min(window.start + timed.end, window.end)
    logprobs = None
    if output.logprobs is not None:
        logprobs = [output.logprobs[position] for position in timed.positions]
    return Segment(
        start, end, raw.strip(), timed.token_ids, logprobs, output.avg_logprob,
        output.no_speech_prob,
    )  # fmt: skip


def _before_stop(text: str, params: SamplingParams) -> str:
    """A window's last text up to the stop string that ended it."""
    ends = [(text.find(stop), stop) for stop in params.stop if stop in text]
    if not ends:
        return text
    position, stop = min(ends)
    return text[: position + (len(stop) if params.include_stop_str_in_output else 0)]
