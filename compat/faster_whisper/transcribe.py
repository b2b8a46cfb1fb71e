"""`WhisperModel` and `BatchedInferencePipeline`: faster-whisper's classes on this engine."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from antiphon.compat.faster_whisper import folders, keywords
from antiphon.compat.faster_whisper.audio import RATE, decode_audio
from antiphon.compat.faster_whisper.engine import SpeechEngine
from antiphon.compat.faster_whisper.languages import Detected, detected
from antiphon.compat.faster_whisper.progress import shown_progress
from antiphon.compat.faster_whisper.results import Segment, TranscriptionInfo, Word
from antiphon.compat.faster_whisper.vad import VadOptions, found_speech, joined, vad_options
from antiphon.config.errors import ConfigurationError, about
from antiphon.engine import outputs
from antiphon.inputs.languages.lookup import language_code

Audio = str | Path | BinaryIO | np.ndarray
Transcribed = tuple[Iterator[Segment], TranscriptionInfo]


class WhisperModel:
    """A Whisper model, loaded into an engine in this process.

    model_size_or_path: a size, a hub id, or a folder in CTranslate2's or transformers' format.
    compute_type: "default" keeps eight-bit weights as such. num_workers has no effect: calls of any
    number of threads share the engine's batches. Options: `keywords.DEFAULTS`.
    """

    def __init__(
        self,
        model_size_or_path: str,
        device: str = "auto",
        device_index: int | list[int] = 0,
        compute_type: str = "default",
        cpu_threads: int = 0,
        num_workers: int = 1,
        download_root: str | None = None,
        local_files_only: bool = False,
        files: Mapping[str, Any] | None = None,
        revision: str | None = None,
        use_auth_token: str | bool | None = None,
        **model_kwargs: Any,
    ) -> None:
        """Raises ConfigurationError for what can't be done, ValueError for an unknown size,
        CheckpointError, and what the hub's client raises."""
        if files:
            raise ConfigurationError(
                "files= is not read: write them into a folder and give its path"
            )
        self.logger = logging.getLogger("faster_whisper")  # the name that scripts know
        model = str(model_size_or_path)
        if not Path(model).expanduser().is_dir():
            model = folders.download_model(
                model,
                local_files_only=local_files_only,
                cache_dir=download_root,
                revision=revision,
                use_auth_token=use_auth_token,
            )
        options = folders.engine_options(
            Path(model).expanduser(), device, device_index, compute_type, cpu_threads, model_kwargs
        )
        self.engine = SpeechEngine(model, **options)
        try:
            self.engine.check()
        except BaseException:
            self.engine.close()
            raise

    @property
    def supported_languages(self) -> list[str]:
        """Codes of the languages that the model knows."""
        return list(self.engine.format.languages) if self.is_multilingual else ["en"]

    @property
    def is_multilingual(self) -> bool:
        return self.engine.format.multilingual

    def transcribe(
        self, audio: Audio, language: str | None = None, task: str = "transcribe", **options: Any
    ) -> Transcribed:
        """Segments as they are made, and what is known before the first one.

        Nothing is transcribed until the segments are iterated over. Options: `keywords.DEFAULTS`.
        Raises ConfigurationError for what the engine does not do yet, InputError for a wrong value,
        AudioError.
        """
        settings = keywords.settled(options, keywords.DEFAULTS)
        return self._transcribed(audio, language, task, settings, batched=False)

    def detect_language(
        self,
        audio: np.ndarray | None = None,
        features: np.ndarray | None = None,
        vad_filter: bool = False,
        vad_parameters: Mapping[str, Any] | VadOptions | None = None,
        language_detection_segments: int = 1,
        language_detection_threshold: float | None = 0.5,
    ) -> Detected:
        """The language of samples at 16 kHz: its code, its probability, and those of all."""
        if features is not None and audio is None:
            raise ConfigurationError("features= is not read: give the samples as audio=")
        if audio is None:
            raise ConfigurationError("give the samples as audio=")
        if vad_filter:
            options = vad_options(vad_parameters, None, batched=False)
            audio = joined(audio, found_speech(audio, options))
        threshold = language_detection_threshold
        return detected(
            self.engine,
            audio,
            language_detection_segments,
            0.5 if threshold is None else threshold,
        )

    def _transcribed(
        self,
        audio: Audio,
        language: str | None,
        task: str,
        settings: dict[str, Any],
        *,
        batched: bool,
    ) -> Transcribed:
        language = self._possible(language, settings)
        options = keywords.engine_options(settings, batched=batched)
        self.engine.check(language=language, task=task, **options)
        samples = audio if isinstance(audio, np.ndarray) else decode_audio(audio, RATE)
        voice = keywords.voice_options(settings, batched=batched)
        heard = samples
        if voice is not None:
            options["vad_parameters"] = speech = found_speech(samples, voice)
            heard = joined(samples, speech)
        probability, everything = 1.0, None
        if language is None:
            language, probability, everything = self.detect_language(
                heard,
                language_detection_segments=settings["language_detection_segments"],
                language_detection_threshold=settings["language_detection_threshold"],
            )
            self.logger.info("Detected language '%s' with probability %.2f", language, probability)
        info = TranscriptionInfo(
            language=language,
            language_probability=probability,
            duration=len(samples) / RATE,
            duration_after_vad=len(heard) / RATE,
            all_language_probs=everything,
            transcription_options=keywords.transcription_options(settings, batched=batched),
            vad_options=voice,
        )
        if not settings["multilingual"]:
            options["language"] = language
        return self._segments(samples, {**options, "task": task}, settings), info

    def _possible(self, language: str | None, settings: dict[str, Any]) -> str | None:
        """The code of the language that can be asked of this model. As faster-whisper does, models
        of English alone take another language for English, with a warning."""
        if self.is_multilingual:
            with about("language"):
                return language_code(language, self.supported_languages)
        if settings["multilingual"] or language not in (None, "en"):
            self.logger.warning("This model knows English alone: it is asked for English")
            settings["multilingual"] = False
        return "en"

    def _segments(
        self, samples: np.ndarray, options: dict[str, Any], settings: Mapping[str, Any]
    ) -> Iterator[Segment]:
        with shown_progress(settings["log_progress"], len(samples) / RATE) as progress:
            segments = self.engine.segments(samples, progress=progress, **options)
            for number, segment in enumerate(segments, 1):
                yield self._segment(number, segment)

    def _segment(self, number: int, segment: outputs.Segment) -> Segment:
        return Segment(
            id=number,
            seek=segment.seek,
            start=round(segment.start, 3),
            end=round(segment.end, 3),
            text=self.engine.text_of(segment),
            tokens=list(segment.token_ids),
            avg_logprob=segment.avg_logprob or 0.0,
            compression_ratio=segment.compression_ratio,
            no_speech_prob=segment.no_speech_prob or 0.0,
            words=None if segment.words is None else [_word(word) for word in segment.words],
            temperature=segment.temperature,
        )

    def close(self) -> None:
        """Frees the engine; faster-whisper leaves that to Python."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _word(word: outputs.Word) -> Word:
    return Word(round(word.start, 2), round(word.end, 2), word.text, word.probability or 0.0)


class BatchedInferencePipeline:
    """Windows of a recording decoded together. As the engine batches what all calls have to do,
    `batch_size` has no effect. Temperatures above the first are tried too, where faster-whisper
    takes the first attempt whatever it is."""

    def __init__(self, model: WhisperModel) -> None:
        self.model = model

    def transcribe(
        self, audio: Audio, language: str | None = None, task: str = "transcribe", **options: Any
    ) -> Transcribed:
        """As `WhisperModel.transcribe`. Options: `keywords.BATCHED`."""
        settings = keywords.settled(options, keywords.BATCHED)
        return self.model._transcribed(audio, language, task, settings, batched=True)
