"""encoder_window='auto': a clip is encoded in a window of its own length."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_engine import PlainEngine

from antiphon.config.errors import ConfigurationError
from antiphon.config.options import ModelOptions, resolve
from antiphon.families.audio_config import AudioConfig
from antiphon.families.checkpoint import ModelConfig
from antiphon.inputs.processor import InputProcessor

RATE = 16_000


def clip(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(int(seconds * RATE)) * 0.1).astype(np.float32)


def test_a_clip_keeps_two_seconds_of_silence_in_half_second_steps() -> None:
    audio = AudioConfig()
    tokens = {
        seconds: audio.tokens_of(int(seconds * RATE))
        for seconds in (0, 0.3, 0.5, 0.51, 4.7, 29.9, 30)
    }
    assert tokens == {0: 100, 0.3: 125, 0.5: 125, 0.51: 150, 4.7: 350, 29.9: 1500, 30: 1500}


@pytest.fixture(scope="module")
def engines(whisper_folder: Path) -> dict[str, PlainEngine]:
    return {
        window: PlainEngine(whisper_folder, encoder_window=window)
        for window in ("full", "zeros", "auto")
    }


def test_a_batch_of_short_windows_equals_each_alone(engines: dict[str, PlainEngine]) -> None:
    encoder = engines["auto"].encoder
    clips = [clip(seconds, seed) for seed, seconds in enumerate((0.7, 3.0, 1.2, 6.5))]
    together = encoder.encode(clips)
    assert together.lengths == [150, 250, 175, 400]
    for states, sound in zip(together.hidden.split(together.lengths), clips, strict=True):
        torch.testing.assert_close(states, encoder.encode([sound]).hidden, atol=2e-4, rtol=1e-3)


def test_a_clip_that_fills_the_window_is_encoded_as_ever(engines: dict[str, PlainEngine]) -> None:
    whole = clip(8.0)
    torch.testing.assert_close(
        engines["auto"].encoder.encode([whole]).hidden,
        engines["full"].encoder.encode([whole]).hidden,
    )


def spectrograms(engine: PlainEngine, *clips: np.ndarray) -> torch.Tensor:
    """[clips, frames, mel bins] that the encoder reads."""
    assert engine.encoder is not None
    seen: list[torch.Tensor] = []
    handle = engine.encoder.model.conv1.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    engine.encoder.encode(list(clips))
    handle.remove()
    (heard,) = seen
    return heard


def test_a_short_window_hears_the_same_frames(engines: dict[str, PlainEngine]) -> None:
    """Spectrograms agree within the window; only attention to the silence behind it is left out."""
    full, short = (spectrograms(engines[name], clip(2.3)) for name in ("full", "auto"))
    assert (full.shape[1], short.shape[1]) == (800, 2 * (225 + 2))
    torch.testing.assert_close(short, full[:, : short.shape[1]])


def test_zeros_follow_each_clip_of_a_batch(engines: dict[str, PlainEngine]) -> None:
    """As openai/whisper's `pad_or_trim` fills its scaled spectrograms."""
    clips = [clip(seconds, seed) for seed, seconds in enumerate((2.3, 8.0, 0.05, 0.0))]
    zeros, full = (spectrograms(engines[name], *clips) for name in ("zeros", "full"))
    for one, other, frames in zip(zeros, full, (230, 800, 5, 0), strict=True):
        torch.testing.assert_close(one[:frames], other[:frames])
        assert not one[frames:].any()
    assert full[0, 230:].any()


def test_the_processor_counts_as_the_encoder_does(whisper_folder: Path) -> None:
    model = ModelConfig.load(ModelOptions(str(whisper_folder)))
    windows = ("full", "auto", "zeros")
    full, auto, zeros = (InputProcessor(model, window).clip(clip(2.3)) for window in windows)
    assert (full.num_tokens, auto.num_tokens, zeros.num_tokens) == (400, 225, 400)
    assert len({full.key, auto.key, zeros.key}) == 3, "hidden states of one must not serve another"


def test_an_unknown_window_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match="encoder_window must be one of full, zeros, auto, not 'short'"
    ):
        resolve("model", {"encoder_window": "short"})


def test_models_that_were_never_measured_in_short_windows_are_named(
    whisper_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shipped = ModelConfig.load(ModelOptions(str(whisper_folder)))
    other = shutil.copytree(whisper_folder, tmp_path / "whisper-other")
    settings = json.loads((other / "config.json").read_text())
    assert settings.pop("antiphon_encoder_window") == "auto"
    (other / "config.json").write_text(json.dumps(settings))
    InputProcessor(shipped, "auto")
    InputProcessor(ModelConfig.load(ModelOptions(str(other))), "full")
    assert not caplog.records
    InputProcessor(ModelConfig.load(ModelOptions(str(other))), "auto")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "whisper-other" in record.getMessage()
    assert (
        "in 207 words of tiny.en, 688 differed from the full window's text" in record.getMessage()
    )
