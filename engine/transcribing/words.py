"""Words of a transcription: what was asked of a decoder, as times of the recording."""

import math
from collections.abc import Sequence
from dataclasses import replace

from antiphon.engine.outputs import CompletionOutput, Segment, Word
from antiphon.engine.transcribing.windows import Window
from antiphon.inputs.calls.transcription import TranscriptionOptions
from antiphon.inputs.prepared import EncoderInput
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.whisper.format import TimedTokens
from antiphon.inputs.whisper.tokens import SECONDS_PER_TICK
from antiphon.inputs.whisper.words import TimedWord, WordRules, find_words, fit
from antiphon.scheduler.alignment import NO_FRAME, Alignment

DIGITS = 2  # of seconds, as in openai/whisper


def alignment(
    inputs: InputProcessor, options: TranscriptionOptions, media: EncoderInput, prompt: list[int]
) -> Alignment | None:
    """What to ask of a request for a clip: when the tokens behind its `prompt` were said, if words
    are wanted."""
    if options.words is None:
        return None
    assert inputs.whisper is not None
    assert inputs.audio is not None
    frames = len(media.payload) // (2 * inputs.audio.hop)
    start = prompt.index(inputs.whisper.start_id)
    return Alignment(start, len(prompt), min(max(1, frames), media.num_tokens))


class WordTimes:
    """Gives the segments of one recording their words, window by window, in order."""

    def __init__(self, inputs: InputProcessor, rules: WordRules) -> None:
        self.inputs, self.rules = inputs, rules
        self._silent_since = 0.0  # when the last word ended

    def add(
        self,
        window: Window,
        output: CompletionOutput,
        timed: Sequence[TimedTokens],
        segments: list[Segment],
    ) -> list[Segment]:
        """`segments`, one for each of `timed`, the pieces of a window's `output`, with their words.
        Their starts and ends follow them."""
        frames = output.token_frames
        positions = [position for piece in timed for position in piece.positions]
        if frames is None or not positions:
            return segments
        starts = [frames[position] * SECONDS_PER_TICK for position in positions]
        assert self.inputs.audio is not None
        sound = len(window.media.payload) / self.inputs.audio.sampling_rate
        starts.append(_end(frames, positions[-1], sound))
        logprobs = output.token_logprobs or []
        chances = [_probability(logprobs, position) for position in positions]
        token_ids = [output.token_ids[position] for position in positions]
        language = segments[0].language
        words = find_words(token_ids, starts, chances, self.inputs.decode, language, self.rules)
        result = []
        for piece, segment in zip(timed, segments, strict=True):
            own = [_in_recording(word, window) for word in words.take(len(piece.positions))]
            own, start, end = fit(own, segment.start, segment.end, self._silent_since, words)
            if own:
                self._silent_since = end
            said = tuple(Word(w.start, w.end, w.text, w.probability) for w in own)
            result.append(replace(segment, start=start, end=end, words=said))
        return result


def _end(frames: Sequence[int], last: int, sound: float) -> float:
    """When the token at `last` ends: where the next one begins, else with the sound, in seconds."""
    following = (frame for frame in frames[last + 1 :] if frame != NO_FRAME)
    frame = next(following, None)
    return sound if frame is None else frame * SECONDS_PER_TICK


def _probability(logprobs: Sequence[float], position: int) -> float | None:
    """NaN stands for a token of which only the id was left when its worker died."""
    if position >= len(logprobs) or math.isnan(logprobs[position]):
        return None
    return math.exp(logprobs[position])


def _in_recording(word: TimedWord, window: Window) -> TimedWord:
    return replace(
        word,
        start=round(window.at(word.start), DIGITS),
        end=round(window.at(word.end, is_end=True), DIGITS),
    )
