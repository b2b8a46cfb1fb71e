"""Which language is spoken: the probabilities of the token behind the start token."""

import asyncio
import math
from collections.abc import Iterable
from dataclasses import dataclass

from antiphon.config.sampling import SamplingParams
from antiphon.engine.deadline import Deadline
from antiphon.engine.transcribing.request_engine import RequestEngine
from antiphon.inputs.prepared import EncoderInput, Prepared


@dataclass(frozen=True)
class Spoken:
    """The language of a recording. `probabilities`: of all, likeliest first, if it was detected."""

    language: str | None
    probabilities: dict[str, float] | None = None

    @property
    def probability(self) -> float | None:
        return None if self.probabilities is None else self.probabilities[self.language or ""]


def of_most(windows: Iterable[dict[str, float]], threshold: float) -> Spoken:
    """The first that is likelier than `threshold` in its window; without such, that of most
    windows, as surely as in the surest of these: faster-whisper's rule. `windows`: the
    probabilities of each, likeliest first; no more of them are taken than are needed."""
    seen: dict[str, list[dict[str, float]]] = {}
    for probabilities in windows:
        language, probability = next(iter(probabilities.items()))
        if probability > threshold:
            return Spoken(language, probabilities)
        seen.setdefault(language, []).append(probabilities)
    if not seen:
        return Spoken(None)
    language = max(seen, key=lambda code: len(seen[code]))
    return Spoken(language, max(seen[language], key=lambda own: own[language]))


class LanguageDetector:
    def __init__(self, engine: RequestEngine, priority: int, deadline: Deadline) -> None:
        assert engine.inputs.whisper is not None
        self.engine, self.format = engine, engine.inputs.whisper
        self.priority, self.deadline = priority, deadline

    async def probabilities(self, media: EncoderInput) -> dict[str, float]:
        """Of each of the checkpoint's languages, likeliest first; they add up to 1. The window's
        cross KV stays cached for its transcription."""
        if not self.format.multilingual:
            return {"en": 1.0}
        codes = {id_: code for code, id_ in self.format.languages.items()}
        params = SamplingParams(
            max_tokens=1,
            beam_size=1,
            allowed_token_ids=tuple(codes),
            logprob_token_ids=tuple(codes),
            skip_special_tokens=False,
        )
        start = [self.format.start_id]
        opened = self.engine.submit(
            Prepared((media,), start, params),
            start,
            timestamps=False,
            priority=self.priority,
            timeout=self.deadline.seconds_left,
        )
        (logprobs,) = (await self.engine.result(opened)).logprobs or [{}]
        values = {codes[id_]: entry.logprob for id_, entry in logprobs.items() if id_ in codes}
        likeliest = max(values.values())
        weights = {code: math.exp(value - likeliest) for code, value in values.items()}
        total = sum(weights.values())
        ordered = sorted(weights.items(), key=lambda item: -item[1])
        return {code: weight / total for code, weight in ordered}

    async def of_windows(self, medias: list[EncoderInput], threshold: float) -> Spoken:
        """As `of_most`. `medias` are windows in their order."""
        probabilities = await asyncio.gather(*(self.probabilities(media) for media in medias))
        return of_most(probabilities, threshold)

    async def language(self, media: EncoderInput) -> str:
        """The likeliest."""
        return next(iter(await self.probabilities(media)))
