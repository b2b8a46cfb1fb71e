"""Encoders of whole models, alone: hidden states as arrays, beside requests that generate."""

from pathlib import Path

import numpy as np
import pytest
import torch
from paths import RECORDINGS
from PIL import Image
from tiny_vision import make
from transformers import AutoTokenizer, SiglipImageProcessorPil, T5EncoderModel

from antiphon import Engine
from antiphon.config.errors import (
    AudioError,
    ConfigurationError,
    EngineDeadError,
    ImageError,
    PromptError,
    UnsupportedModelError,
)

TEXTS = [f"in words: {number}" for number in (1, 22, 333, 22)]


@torch.inference_mode()
def test_hidden_states_of_texts(t5_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(t5_folder)
    model = T5EncoderModel.from_pretrained(t5_folder, dtype=torch.float32).eval()
    with Engine(str(t5_folder), ray=False) as engine:
        states = engine.encode(TEXTS)
        for text, actual in zip(TEXTS, states, strict=True):
            ids = tokenizer(text, return_tensors="pt").input_ids
            wanted = model(ids).last_hidden_state[0].numpy()
            assert actual.dtype == np.float32
            assert actual.shape == wanted.shape
            assert np.abs(actual - wanted).max() <= 1e-4 * np.abs(wanted).max()
        assert engine.generate(TEXTS[0], use_tqdm=False)[0].outputs[0].text == "one"
        with pytest.raises(PromptError, match="no pooling"):
            engine.encode(TEXTS, pooled=True)
        with pytest.raises(PromptError, match="is empty"):
            engine.encode([{"multi_modal_data": {}}])
    with pytest.raises(EngineDeadError):
        engine.encode(TEXTS)


def test_hidden_states_of_sound(whisper_folder: Path) -> None:
    with Engine(str(whisper_folder), ray=False) as engine:
        path = RECORDINGS / "call.wav"
        first, second = engine.encode([path, {"multi_modal_data": {"audio": str(path)}}])
        assert first.ndim == 2
        assert np.isfinite(first).all()
        assert np.array_equal(first, second)
        with pytest.raises(AudioError, match="no such file"):
            engine.encode(["/no/such.wav"])


@torch.inference_mode()
def test_an_encoder_alone_gives_hidden_states_and_embeddings_of_images(tmp_path: Path) -> None:
    model = make("siglip", tmp_path)
    processor = SiglipImageProcessorPil(size={"height": 24, "width": 24})
    processor.save_pretrained(tmp_path)
    images = [
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (20 + n, 30, 3), np.uint8))
        for n in range(3)
    ]
    output = model.vision_model(**processor(images, return_tensors="pt"))
    with Engine(str(tmp_path), ray=False) as engine:
        states, pooled = engine.encode(images), engine.encode(images, pooled=True)
        assert np.allclose(np.stack(states), output.last_hidden_state, atol=1e-4)
        assert np.allclose(np.stack(pooled), output.pooler_output, atol=1e-4)
        assert "encoder torch_sdpa" in repr(engine)
        with pytest.raises(ImageError, match="cannot be read"):
            engine.encode(["/no/such.png"])
        refused = engine.generate("text", use_tqdm=False)[0].error
        assert isinstance(refused, UnsupportedModelError)
        assert "use encode()" in str(refused)
    with pytest.raises(ConfigurationError, match="give ray=False"):
        Engine(str(tmp_path))
