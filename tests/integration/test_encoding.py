"""Encoders of whole models, alone: hidden states as arrays, beside requests that generate."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import ray
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
    InputError,
    PromptError,
    UnsupportedModelError,
)
from antiphon.inputs.audio.forms import load_audio
from antiphon.serve.one_process import opener

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
            engine.encode({"multi_modal_data": {}})
        (alone,) = engine.encode(TEXTS[0])
        good, bad = engine.encode([TEXTS[0], {"multi_modal_data": {}}])
        assert np.allclose(alone, states[0], atol=1e-5)
        assert np.allclose(good, states[0], atol=1e-5)
        assert isinstance(bad, PromptError)
        for wrong in (None, 5, TEXTS[0].encode()):
            with pytest.raises(PromptError, match="prompt"):
                engine.encode(wrong)
    with pytest.raises(EngineDeadError):
        engine.encode(TEXTS)


def test_hidden_states_of_sound(whisper_folder: Path) -> None:
    with Engine(str(whisper_folder), ray=False) as engine:
        path = RECORDINGS / "call.wav"
        first, second = engine.encode([path, {"multi_modal_data": {"audio": str(path)}}])
        assert first.ndim == 2
        assert np.isfinite(first).all()
        assert np.array_equal(first, second)
        samples = load_audio(path, 16_000)
        forms = [path, str(path), path.read_bytes(), samples, (samples, 16_000), (16_000, samples)]
        forms += [torch.from_numpy(samples), {"array": samples, "sampling_rate": 16_000}]
        for one in forms:
            (alone,) = engine.encode(one)
            assert np.allclose(alone, first, atol=1e-5), type(one)
        with path.open("rb") as file:
            assert np.array_equal(engine.encode(file)[0], first)
        good, bad = engine.encode([path, "/no/such.wav"])
        assert np.array_equal(good, first)
        assert isinstance(bad, AudioError)
        with pytest.raises(AudioError, match=r"^/no/such\.wav: no such file"):
            engine.encode("/no/such.wav")
        for wrong in (None, 5):
            with pytest.raises(InputError, match=r"audio must be a path|'audio': path"):
                engine.encode(wrong)


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
        images[0].save(tmp_path / "one.png")
        for one in (images[0], np.asarray(images[0]), tmp_path / "one.png"):
            (alone,) = engine.encode(one)
            assert np.allclose(alone, states[0], atol=1e-4), type(one)
        good, bad = engine.encode([images[0], "/no/such.png"])
        assert np.allclose(good, states[0], atol=1e-4)
        assert isinstance(bad, ImageError)
        with pytest.raises(ImageError, match="cannot be read"):
            engine.encode("/no/such.png")
        with pytest.raises(ImageError, match="an image must be"):
            engine.encode(None)
        refused = engine.generate("text", use_tqdm=False)[0].error
        assert isinstance(refused, UnsupportedModelError)
        assert "use encode()" in str(refused)
    with pytest.raises(UnsupportedModelError, match="has no route over HTTP"):
        asyncio.run(cast("Any", opener(str(tmp_path), {"ray": False})()))
    with pytest.raises(ConfigurationError, match="has no decoder: leave the option out"):
        Engine(str(tmp_path), placement="colocated")


@torch.inference_mode()
def test_a_text_encoder_alone(t5_folder: Path, tmp_path: Path) -> None:
    """Also with a prefix for its input, and what it refuses."""
    model = T5EncoderModel.from_pretrained(t5_folder, dtype=torch.float32).eval()
    model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(t5_folder)
    tokenizer.save_pretrained(tmp_path)
    with Engine(str(tmp_path), ray=False) as engine:
        for text, actual in zip(TEXTS, engine.encode(TEXTS), strict=True):
            wanted = model(tokenizer(text, return_tensors="pt").input_ids).last_hidden_state[0]
            assert np.abs(actual - wanted.numpy()).max() <= 1e-4 * np.abs(wanted.numpy()).max()
        assert isinstance(engine.generate("a", use_tqdm=False)[0].error, UnsupportedModelError)
        with pytest.raises(ConfigurationError, match="leave out ray=False"):
            engine.encode(TEXTS, object_refs=True)
        with pytest.raises(ConfigurationError, match="no option 'pool'"):
            engine.encode(TEXTS, pool=True)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_pool_of_encoders_over_ray(tmp_path: Path) -> None:
    """Its arrays are those of one process; one of the two encoders may die meanwhile."""
    make("siglip", tmp_path)
    SiglipImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(tmp_path)
    images = [np.random.default_rng(n).integers(0, 255, (20, 30, 3), np.uint8) for n in range(12)]
    with Engine(str(tmp_path), ray=False) as engine:
        expected = [engine.encode(images), engine.encode(images, pooled=True)]
    options: dict[str, Any] = {"device": "cpu", "num_threads": 1, "encoder_replicas": 2}
    with Engine(str(tmp_path), **options) as engine:
        for pooled, wanted in enumerate(expected):
            actual = engine.encode(images, pooled=bool(pooled))
            np.testing.assert_allclose(np.stack(actual), np.stack(wanted), atol=1e-5)
        references = engine.encode(images, pooled=True, object_refs=True)
        assert all(isinstance(one, ray.ObjectRef) for one in references)
        np.testing.assert_allclose(np.stack(ray.get(references)), np.stack(expected[1]), atol=1e-5)
        workers = engine._async.workers
        assert workers is not None
        spots = engine._loop_thread.run(workers.processes())
        assert sorted(spots) == ["encoder-0", "encoder-1"]
        os.kill(spots["encoder-0"].pid, signal.SIGKILL)
        again = engine.encode([image[:, ::-1] for image in images], timeout=60)
        assert len(again) == len(images)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_states_of_a_whole_model_over_ray(t5_folder: Path) -> None:
    """Of colocated ranks, each of which encodes a share, beside requests that generate."""
    with Engine(str(t5_folder), ray=False) as engine:
        expected = engine.encode(TEXTS)
        texts = [output.outputs[0].text for output in engine.generate(TEXTS, use_tqdm=False)]
    options: dict[str, Any] = {"device": "cpu", "num_threads": 1, "tensor_parallel_size": 2}
    with Engine(str(t5_folder), placement="colocated", **options) as engine:
        for _ in range(2):
            for actual, wanted in zip(engine.encode(TEXTS), expected, strict=True):
                np.testing.assert_allclose(actual, wanted, atol=1e-4)
            outputs = engine.generate(TEXTS, use_tqdm=False)
            assert [output.outputs[0].text for output in outputs] == texts
