"""Encoders of whole models, alone: hidden states as arrays, beside requests that generate."""

from pathlib import Path

import numpy as np
import pytest
import torch
from paths import RECORDINGS
from transformers import AutoTokenizer, T5EncoderModel

from antiphon import Engine
from antiphon.config.errors import AudioError, EngineDeadError, PromptError

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
