"""`cumulative_logprob`, `avg_logprob`, `no_speech_prob` against transformers, on shipped models."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.generation.logits_process import WhisperNoSpeechDetection

from antiphon.config.options import ModelOptions
from antiphon.config.sampling import SamplingParams
from antiphon.engine.completion import completion_output
from antiphon.engine.outputs import CompletionOutput
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.audio.forms import load_audio
from antiphon.inputs.processor import InputProcessor
from antiphon.scheduler.generated import Readout

RATE = 16_000


class Outputs:
    """Completions of a checkpoint, as callers get them."""

    def __init__(self, folder: Path) -> None:
        self.inputs = InputProcessor(ModelConfig.load(ModelOptions(str(folder))))
        whisper = self.inputs.whisper
        self.engine = PlainEngine(folder, None if whisper is None else whisper.rules())

    def readouts(self, prompt: list[int]) -> tuple[Readout, ...]:
        """As transcriptions ask."""
        whisper = self.inputs.whisper
        if whisper is None:
            return ()
        return (Readout(prompt.index(whisper.start_id), whisper.no_speech_id),)

    def of(
        self, payload: np.ndarray, prompt: list[int], timestamps: bool, params: SamplingParams
    ) -> CompletionOutput:
        params = self.inputs.complete(params)
        request = self.engine.request(
            payload,
            prompt,
            self.inputs.max_tokens(len(prompt), params),
            self.inputs.rules(len(prompt), params, timestamps),
            params=params,
            seed=4,
            readouts=self.readouts(prompt),
        )
        id_ = self.engine.submit(request)
        opened: Any = SimpleNamespace(request=request, text=None)
        return completion_output(self.inputs, opened, self.engine.run()[id_], 0)


@pytest.fixture(scope="module")
def whisper(whisper_folder: Path) -> Outputs:
    return Outputs(whisper_folder)


@pytest.fixture(scope="module")
def model(whisper_folder: Path) -> WhisperForConditionalGeneration:
    return WhisperForConditionalGeneration.from_pretrained(
        whisper_folder, dtype=torch.float32
    ).eval()


def windows(folder: Path) -> list[np.ndarray]:
    samples = load_audio(folder.parent / "recordings" / "long.opus", RATE)
    noise = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32) * 0.1
    return [samples[: 3 * RATE], samples[2 * RATE : 6 * RATE], noise]


@pytest.mark.parametrize("timestamps", [False, True])
def test_measures_of_a_window_are_those_of_transformers(
    timestamps: bool,
    whisper: Outputs,
    model: WhisperForConditionalGeneration,
    whisper_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which asks for fallback by openai-whisper's thresholds."""
    computed: list[float] = []
    no_speech: list[float] = []
    original, detect = type(model)._retrieve_avg_logprobs, WhisperNoSpeechDetection.__call__

    def detecting(self: WhisperNoSpeechDetection, ids: Any, scores: Any) -> Any:
        result = detect(self, ids, scores)
        no_speech.append(float(self.no_speech_prob[0]))
        return result

    def watched(*arguments: Any) -> Any:
        computed.append(float(value := original(*arguments)))
        return value

    monkeypatch.setattr(type(model), "_retrieve_avg_logprobs", staticmethod(watched))
    monkeypatch.setattr(WhisperNoSpeechDetection, "__call__", detecting)
    extractor = WhisperFeatureExtractor.from_pretrained(whisper_folder)
    assert whisper.inputs.whisper is not None
    prompt = whisper.inputs.whisper.prompt("en", "transcribe", timestamps)
    for window in windows(whisper_folder):
        features = extractor(window, sampling_rate=RATE, return_tensors="pt").input_features
        computed.clear()
        no_speech.clear()
        sequence = model.generate(
            features, language="en", task="transcribe", return_timestamps=timestamps,
            temperature=0.0, logprob_threshold=-1e9, no_speech_threshold=2.0,
            force_unique_generate_call=False,
        )[0].tolist()  # fmt: skip
        output = whisper.of(window, prompt, timestamps, SamplingParams())
        text = whisper.inputs.whisper.text_positions(output.token_ids)
        assert [output.token_ids[i] for i in text] == [
            id_ for id_ in sequence if id_ < whisper.inputs.whisper.end_id
        ]
        assert output.avg_logprob == pytest.approx(computed[0], abs=2e-4)
        assert output.no_speech_prob == pytest.approx(no_speech[-1], rel=1e-3)


def test_the_sum_is_that_of_the_tokens_under_the_raw_logits(t5_folder: Path) -> None:
    outputs, prompt = Outputs(t5_folder), "in words: 407"
    model = AutoModelForSeq2SeqLM.from_pretrained(t5_folder, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(t5_folder)(prompt, return_tensors="pt").input_ids
    start = model.generation_config.decoder_start_token_id
    for params in (SamplingParams(), SamplingParams(temperature=1.5), SamplingParams(logprobs=0)):
        output = outputs.of(ids[0].numpy().astype(np.int32), [start], False, params)
        tokens = torch.tensor([[start, *output.token_ids]])
        with torch.no_grad():
            logits = model(input_ids=ids, decoder_input_ids=tokens[:, :-1]).logits[0]
        chosen = logits.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0]
        assert output.cumulative_logprob == pytest.approx(float(chosen.sum()), abs=1e-3)
        assert output.avg_logprob == pytest.approx(float(chosen.mean()), abs=1e-3)
        if output.logprobs is not None:
            named = [
                entry[id_].logprob
                for entry, id_ in zip(output.logprobs, output.token_ids, strict=True)
            ]
            assert math.fsum(named) == pytest.approx(output.cumulative_logprob)
