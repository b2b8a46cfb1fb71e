"""From the tokens of a recording's windows to its text and timed segments."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from antiphon.config.sampling import SamplingParams
from antiphon.engine.outputs import CompletionOutput, Segment, Transcription
from antiphon.engine.transcribing.attempts import Decoded
from antiphon.engine.transcribing.languages import Spoken
from antiphon.engine.transcribing.overlaps import Part, joined
from antiphon.engine.transcribing.request_engine import RequestEngine
from antiphon.engine.transcribing.windows import Recording, Window
from antiphon.engine.transcribing.words import WordTimes
from antiphon.inputs.audio.sound import Skipped, merged
from antiphon.inputs.calls.transcription import TranscriptionOptions
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.whisper.format import TimedTokens, WhisperFormat

SEEK_RATE = 100  # of `Segment.seek`, a second
FEW_TOKENS = 256  # whose text is decoded in less time than a thread takes to begin and to answer


async def whole(
    engine: RequestEngine, segments: "Segments", recording: Recording, spoken: Spoken
) -> Transcription:
    """The transcription of all windows, made in a thread where it takes long."""
    if segments.are_few:
        return segments.transcription(recording, spoken)
    return await engine.run_in_thread(segments.transcription, recording, spoken)


class Made(NamedTuple):
    """A segment, and its text with the blanks at its ends."""

    raw: str
    segment: Segment


class Segments:
    """The segments of one recording, from its windows in their order.

    `on_segments` is told those of each window.
    """

    def __init__(
        self,
        inputs: InputProcessor,
        options: TranscriptionOptions,
        on_segments: Callable[[list[Segment]], object] = lambda segments: None,
    ) -> None:
        self.inputs, self.options, self.on_segments = inputs, options, on_segments
        self.all: list[Segment] = []
        self._words = None if options.words is None else WordTimes(inputs, options.words)
        self._texts: list[str] = []  # of the segments, with the blanks at their ends
        self.silent: list[Skipped] = []  # where the model heard nobody speak
        self._held: Part | None = None  # whose end the next window hears too

    def add(self, window: Window, decoded: Decoded) -> None:
        """All text of a window, unless that is what a model says to silence. It counts once the
        window behind it is added, where that hears some of the same."""
        assert self.inputs.whisper is not None
        pieces = []
        if not self.is_silence(decoded):
            pieces = _timed(self.inputs.whisper, decoded.output, self.options.timestamps)
        if not any(self.inputs.decode(piece.token_ids).strip() for piece in pieces):
            pieces = []  # as in sequence, where segments without text are left out
            known = 0.0 if self._held is None else self._held.window.shared
            self.note_silence(window.start + known, window.end - window.shared)
        part = Part(window, decoded, pieces)
        if self._held is not None:
            before, part = joined(self._held, part, self.inputs.decode)
            self.keep(self.made(before.window, before.decoded, before.pieces))
        self._held = part if window.shared else None
        if not window.shared:
            self.keep(self.made(window, decoded, part.pieces))

    def is_silence(self, decoded: Decoded) -> bool:
        output = decoded.output
        return self.options.fallback.is_silence(output.avg_logprob, output.no_speech_prob)

    def note_silence(self, start: float, end: float) -> None:
        """No text is made of the recording from `start` to `end`, in seconds."""
        if start < end:
            self.silent.append(Skipped(start, end, "no speech"))

    def made(self, window: Window, decoded: Decoded, timed: list[TimedTokens]) -> "list[Made]":
        """The segments of a window whose text is cut already."""
        last, texts, segments = len(decoded.output.token_ids) - 1, [], []
        for id_, piece in enumerate(timed, len(self.all)):
            raw = self.inputs.decode(piece.token_ids)
            if self.options.params.stop and piece.positions[-1] == last:
                raw = _before_stop(raw, self.options.params)
            texts.append(raw)
            segments.append(_segment(window, decoded, piece, raw.strip(), id_))
        if self._words is not None:
            segments = self._words.add(window, decoded.output, timed, segments)
        return [Made(*pair) for pair in zip(texts, segments, strict=True)]

    def keep(self, made: "list[Made]") -> None:
        """These are part of the transcription."""
        first = len(self.all)
        for raw, segment in made:
            self._texts.append(raw)
            id_ = len(self.all)  # its own, unless one before it was left out
            self.all.append(segment if segment.id == id_ else replace(segment, id=id_))
        if made:
            self.on_segments(self.all[first:])

    @property
    def are_few(self) -> bool:
        """Whether a thread's turn would take longer than to make the whole of them."""
        return sum(len(segment.token_ids) for segment in self.all) <= FEW_TOKENS

    def transcription(self, recording: Recording, spoken: Spoken) -> Transcription:
        if self.options.params.stop or len(self.all) == 1:
            text = "".join(self._texts)
        else:  # a character of several tokens may begin in one segment and end in the next
            text = self.inputs.decode([id_ for segment in self.all for id_ in segment.token_ids])
        return Transcription(
            text.strip(), spoken.language, self.all, recording.duration, spoken.probability,
            merged([*recording.skipped, *self.silent]), spoken.probabilities, recording.heard,
        )  # fmt: skip


def _timed(format_: WhisperFormat, output: CompletionOutput, timestamps: bool) -> list[TimedTokens]:
    """Segments as the model marked them; without timestamps, one for the whole window."""
    if timestamps:
        return format_.segments(output.token_ids)
    positions = format_.text_positions(output.token_ids)
    if not positions:
        return []
    ids = [output.token_ids[position] for position in positions]
    return [TimedTokens(0.0, None, ids, positions)]


def _segment(window: Window, decoded: Decoded, timed: TimedTokens, text: str, id_: int) -> Segment:
    output, logprobs = decoded.output, None
    if output.logprobs is not None:
        logprobs = [output.logprobs[position] for position in timed.positions]
    return Segment(
        window.at(timed.start),
        window.end if timed.end is None else window.at(timed.end, is_end=True),
        text,
        timed.token_ids,
        logprobs,
        output.avg_logprob,
        output.no_speech_prob,
        id=id_,
        seek=round(window.start * SEEK_RATE),
        temperature=decoded.temperature,
        compression_ratio=decoded.compression_ratio,
        language=decoded.language,
    )


def _before_stop(text: str, params: SamplingParams) -> str:
    """A window's last text up to the stop string that ended it."""
    ends = [(text.find(stop), stop) for stop in params.stop if stop in text]
    if not ends:
        return text
    position, stop = min(ends)
    return text[: position + (len(stop) if params.include_stop_str_in_output else 0)]
