"""Words of a transcription: what was asked of a decoder, as times of the recording."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from antiphon.config.decoding_rules import RuleChanges
from antiphon.config.sampling import SamplingParams
from antiphon.engine.deadline import Deadline
from antiphon.engine.outputs import CompletionOutput, Segment, Word
from antiphon.engine.transcribing.request_engine import RequestEngine
from antiphon.engine.transcribing.windows import Window
from antiphon.inputs.calls.transcription import TranscriptionOptions
from antiphon.inputs.prepared import EncoderInput, Prepared
from antiphon.inputs.processor import InputProcessor
from antiphon.inputs.whisper.format import TimedTokens
from antiphon.inputs.whisper.prompts import WindowPrompt
from antiphon.inputs.whisper.tokens import SECONDS_PER_TICK
from antiphon.inputs.whisper.words import TimedWord, WordRules, find_words, fit
from antiphon.scheduler.alignment import NO_FRAME, Alignment

DIGITS = 2  # of seconds, as in openai/whisper


class WordRequests:
    """What the requests of one call ask so that their text gets words."""

    def __init__(
        self, engine: RequestEngine, options: TranscriptionOptions, deadline: Deadline
    ) -> None:
        self.engine, self.options, self.deadline = engine, options, deadline

    def question(self, media: EncoderInput, prompt: WindowPrompt) -> Alignment:
        """When the tokens behind a clip's `prompt` were said."""
        audio, padded = self.engine.inputs.audio, media.payload
        assert audio is not None
        frames = max(1, _heard(padded) // (2 * audio.hop))
        return Alignment(prompt.start, len(prompt.token_ids), min(frames, media.num_tokens))

    async def aligned(
        self, output: CompletionOutput, media: EncoderInput, language: str | None
    ) -> CompletionOutput:
        """`output` with its `token_frames`.

        A beam search has none: its best sequence is no longer in the decoder when it is chosen. So
        its text becomes the prompt of a request that generates nothing but the end. So does a text
        whose tokens all seem to be said at once: behind its timestamps, not every model attends to
        where it is.
        """
        format_ = self.engine.inputs.whisper
        assert format_ is not None
        positions = format_.text_positions(output.token_ids)
        if not positions or _is_told(output.token_frames, positions):
            return output
        start = format_.prompt(language, self.options.task, timestamps=False)
        room = self.engine.inputs.model.max_decoder_len - len(start) - 1
        text = [output.token_ids[position] for position in positions[:room]]
        params = SamplingParams(
            max_tokens=1, temperature=0.0, beam_size=1, allowed_token_ids=(format_.end_id,)
        )
        question = self.question(media, WindowPrompt(start, 0))
        opened = self.engine.submit(
            Prepared((media,), [*start, *text], params),
            [*start, *text],
            timestamps=False,
            priority=self.options.priority,
            timeout=self.deadline.seconds_left,
            alignment=question,
            rule_changes=RuleChanges(begin_suppress=()),
        )
        frames = (await self.engine.result(opened)).token_frames
        assert frames is not None
        every = [NO_FRAME] * len(output.token_ids)
        for position, frame in zip(positions, frames, strict=False):
            every[position] = frame
        last = frames[-1]
        for position in positions[room:]:
            every[position] = last
        if positions[-1] + 1 < len(every):
            every[positions[-1] + 1] = last  # of the token behind the text: where that ends
        return replace(output, token_frames=every)


def _heard(samples: np.ndarray) -> int:
    """Samples up to the last one that is not 0: behind it is nothing, as a clip may be padded."""
    if len(samples) and samples[-1]:  # a search takes long, and lets all other threads go first
        return len(samples)
    sounds = np.flatnonzero(samples)
    return int(sounds[-1]) + 1 if len(sounds) else 0


def _is_told(frames: Sequence[int] | None, positions: Sequence[int]) -> bool:
    """Whether `frames` say when the tokens at `positions` begin."""
    if frames is None:
        return False
    return len(positions) == 1 or len({frames[position] for position in positions}) > 1


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
            if start >= end:  # nothing is known of its words
                start, end = segment.start, segment.end
            said = tuple(Word(w.start, w.end, w.text, w.probability) for w in own)
            said = within_text(said, segment.text)
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
    start, end = window.at(word.start), window.at(word.end, is_end=True)
    return word.between(round(start, DIGITS), round(end, DIGITS))


def within_text(words: tuple[Word, ...], text: str) -> tuple[Word, ...]:
    """`words` up to where `text` ends, which a stop string may have cut."""
    joined = "".join(word.text for word in words)
    if not text:
        return ()
    rest = len(joined) - len(joined.lstrip()) + len(text)
    kept: list[Word] = []
    for word in words:
        if rest <= 0:
            break
        kept.append(word if len(word.text) <= rest else replace(word, text=word.text[:rest]))
        rest -= len(word.text)
    return tuple(kept)
