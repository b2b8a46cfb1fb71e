"""When published Whisper weights say that each token of recorded speech was said, beside
openai/whisper's rule on transformers' attention."""

import asyncio

import numpy as np
import pytest
import real_weights
import torch
from transcribing_engine import TranscribingEngine
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.models.whisper.generation_whisper import (
    _dynamic_time_warping,
    _median_filter,
)

from antiphon.config.sampling import SamplingParams
from antiphon.engine.outputs import CompletionOutput
from antiphon.inputs.audio.forms import load_audio
from antiphon.inputs.prepared import Prepared
from antiphon.scheduler.alignment import NO_FRAME, Alignment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RATE, SAMPLES_PER_FRAME = 16_000, 320


@pytest.fixture(scope="module")
def engine() -> TranscribingEngine:
    return TranscribingEngine(real_weights.model("tiny.en"))


@pytest.fixture(scope="module")
def oracle() -> WhisperForConditionalGeneration:
    model = WhisperForConditionalGeneration.from_pretrained(
        real_weights.model("tiny.en"), dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    paths = [real_weights.speech() / name for name in real_weights.references()]
    return [load_audio(str(path), RATE) for path in paths]


def decoded(engine: TranscribingEngine, clip: np.ndarray, timestamps: bool) -> CompletionOutput:
    format_ = engine.inputs.whisper
    assert format_ is not None
    prompt, media = format_.prompt("en", "transcribe", timestamps), engine.inputs.clip(clip)
    opened = engine.submit(
        Prepared((media,), prompt, SamplingParams()), prompt, timestamps=timestamps, priority=0,
        alignment=Alignment(0, len(prompt), len(clip) // SAMPLES_PER_FRAME),
    )  # fmt: skip
    return asyncio.run(engine.result(opened))


def frames_of_oracle(
    oracle: WhisperForConditionalGeneration, clip: np.ndarray, text: list[int]
) -> list[int]:
    """Of the tokens of `text` and of the one behind it: as openai/whisper's `find_alignment`, which
    runs the text once more behind a prompt without timestamps."""
    generation = oracle.generation_config
    extractor = WhisperFeatureExtractor.from_pretrained(real_weights.model("tiny.en"))
    features = extractor(clip, sampling_rate=RATE, return_tensors="pt").input_features
    start = [generation.decoder_start_token_id]
    tokens = [*start, generation.no_timestamps_token_id, *text, generation.eos_token_id]
    with torch.inference_mode():
        attention = oracle(
            features, decoder_input_ids=torch.tensor([tokens]), output_attentions=True
        ).cross_attentions
    heads = generation.alignment_heads
    weights = torch.stack([attention[layer][0, head] for layer, head in heads])
    weights = weights[:, :, : len(clip) // SAMPLES_PER_FRAME]
    weights = weights / weights.sum(-1, keepdim=True)
    deviation, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    matrix = _median_filter((weights - mean) / deviation, 7).mean(0)[len(start) : -1]
    rows, columns = _dynamic_time_warping(-matrix.double().numpy())
    enters = np.pad(np.diff(rows), (1, 0), constant_values=1).astype(bool)
    frames: list[int] = columns[enters].tolist()
    return frames


@pytest.mark.parametrize(("timestamps", "slack"), [(False, 1), (True, 5)])
def test_tokens_begin_where_openai_whisper_hears_them(
    engine: TranscribingEngine,
    oracle: WhisperForConditionalGeneration,
    clips: list[np.ndarray],
    timestamps: bool,
    slack: int,
) -> None:
    """With timestamps the text has another context, and its queries differ: 0.1 s is near."""
    differences: list[int] = []
    for clip in clips:
        output = decoded(engine, clip, timestamps)
        assert output.token_frames is not None
        assert engine.inputs.whisper is not None
        positions = engine.inputs.whisper.text_positions(output.token_ids)
        expected = frames_of_oracle(oracle, clip, [output.token_ids[p] for p in positions])
        own = [frame for frame in output.token_frames if frame != NO_FRAME]
        differences += [abs(a - b) for a, b in zip(own, expected, strict=True)]
    near = np.mean([difference <= slack for difference in differences])
    assert len(differences) > 80
    assert near >= 0.95, sorted(differences)[-20:]
