"""What `antiphon quantize` reads and refuses; llm-compressor itself is not installed for tests."""

import json
import wave
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from tiny_mllama import NAME, make_mllama, tokenizer
from tiny_vlms import make_vlm, picture
from transformers import MllamaProcessor
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from antiphon.config.errors import ConfigurationError, ManifestError
from antiphon.config.options import ModelOptions
from antiphon.families.checkpoint import ModelConfig
from antiphon.jobs.calibration import RATE, Samples, read_lines, reads
from antiphon.jobs.quantizing import Quantization, _group_size, quantize


def manifest(folder: Path, *lines: dict[str, Any]) -> str:
    path = folder / "lines.jsonl"
    path.write_text("\n\n".join(map(json.dumps, lines)))
    return str(path)


def test_lines_are_those_of_batches(tmp_path: Path) -> None:
    speech = manifest(tmp_path, {"audio_filepath": "a.wav", "text": "said"}, {"audio": "/b.wav"})
    assert read_lines(speech, "audio", 9) == [
        {"audio": tmp_path / "a.wav", "span": None},
        {"audio": Path("/b.wav"), "span": None},
    ]
    others = manifest(
        tmp_path, {"audio_path": "s3://b/a.wav"}, {"path": "c.wav", "offset": 1, "duration": 2}
    )
    assert read_lines(others, "audio", 9) == [
        {"audio": "s3://b/a.wav", "span": None},
        {"audio": tmp_path / "c.wav", "span": (1.0, 2.0)},
    ]
    texts = manifest(tmp_path, {"prompt": "one", "id": "1"}, {"text": "two"}, {"text": "three"})
    assert read_lines(texts, "text", 2) == [{"text": "one"}, {"text": "two"}]
    chats = manifest(tmp_path, {"image": "a.png", "prompt": "what is it?"})
    own = {"image": tmp_path / "a.png", "text": "what is it?"}
    assert read_lines(chats, "image_text", 9) == [own]


def test_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.wav", "a.wav", "c.wav"):
        (tmp_path / name).touch()
    files = [tmp_path / name for name in ("a.wav", "b.wav")]
    whole = [{"audio": file, "span": None} for file in files]
    assert read_lines(str(tmp_path), "audio", 2) == whole
    with pytest.raises(ConfigurationError, match="reads image and text: give JSON lines"):
        read_lines(str(tmp_path), "image_text", 2)


def test_lines_that_do_not_suit(tmp_path: Path) -> None:
    lines = manifest(tmp_path, {"text": "a"}, {"audio": "b.wav"})
    with pytest.raises(ManifestError, match=r"line 3 of .*lines.jsonl: 'audio' is for speech"):
        read_lines(lines, "text", 9)
    with pytest.raises(ManifestError, match=r"line 1 of .*lines.jsonl: no 'image', which this"):
        read_lines(lines, "image", 9)


@pytest.mark.parametrize("place", ["memory://sounds", "disk"])
def test_recordings_are_read_as_batches_read_them(tmp_path: Path, place: str) -> None:
    """From an address, too, and in part."""
    folder = str(tmp_path) if place == "disk" else place
    with fsspec.open(f"{folder}/a.wav", "wb") as file, wave.open(file, "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", "NONE"))
        writer.writeframes(bytes(2 * RATE))
    lines = read_lines(
        manifest(tmp_path, {"path": f"{folder}/a.wav"}, {"path": f"{folder}/a.wav", "offset": 0.5}),
        "audio", 9,
    )  # fmt: skip
    heard: list[int] = []

    def processor(samples: np.ndarray, **_: object) -> dict[str, torch.Tensor]:
        heard.append(len(samples))
        return {}

    samples = Samples(lines, SimpleNamespace(dtype=torch.float32), processor)
    for line in lines:
        samples._inputs(line)
    assert heard == [RATE, RATE // 2]


def test_data_that_does_not_suit(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nothing to calibrate with"):
        read_lines(manifest(tmp_path), "text", 9)
    with pytest.raises(ConfigurationError, match="cannot read the manifest"):
        read_lines(str(tmp_path / "absent.jsonl"), "text", 9)


def test_what_an_input_is_made_of(t5_folder: Path, whisper_folder: Path, tmp_path: Path) -> None:
    make_vlm("qwen2_vl", tmp_path)
    made_of = {t5_folder: "text", whisper_folder: "audio", tmp_path: "image_text"}
    for folder, expected in made_of.items():
        assert reads(ModelConfig.load(ModelOptions(str(folder)))) == expected


def test_a_picture_is_run_with_what_the_model_writes(tmp_path: Path) -> None:
    """What is written has no pictures, and its kinds are those of text."""
    model = make_vlm("qwen2_vl", tmp_path)
    ids = torch.tensor([[3, 4, model.config.image_token_id, 5]])
    inputs = {
        "input_ids": ids,
        "mm_token_type_ids": (ids == model.config.image_token_id).int(),
        "pixel_values": torch.rand(4, 96),
        "image_grid_thw": torch.tensor([[1, 2, 2]]),
    }
    samples = Samples([], model, None)
    sample = samples._with_answer(inputs)
    length = sample["input_ids"].shape[1]
    assert length > ids.shape[1]
    assert (sample["input_ids"] == model.config.image_token_id).sum() == 1
    assert sample["mm_token_type_ids"].shape == sample["attention_mask"].shape == (1, length)
    assert sample["mm_token_type_ids"].sum() == 1
    with torch.no_grad():
        assert model(**sample).logits.shape[:2] == (1, length)


def test_what_llama_vision_writes_sees_the_picture(tmp_path: Path) -> None:
    """By its mask of cross-attention, which knows the prompt's tokens alone: run at once, the model
    gives what it wrote one token after the other."""
    model = make_mllama(tmp_path)
    processor = MllamaProcessor(MllamaImageProcessorPil.from_pretrained(tmp_path), tokenizer())
    text = f"w9 {NAME} w7 w8"
    inputs = dict(processor(images=[picture(1, 28, 12)], text=text, return_tensors="pt"))
    asked = inputs["input_ids"].shape[1]
    sample = Samples([], model, None)._with_answer(inputs)
    length = sample["input_ids"].shape[1]
    seen = sample["cross_attention_mask"]
    assert length > asked
    assert seen.shape[:2] == (1, length)
    assert not seen[:, 0].any()
    assert (seen[:, asked:] == seen[:, asked - 1 : asked]).all()
    assert seen[:, asked:].any(-1).all()

    def written(sample: dict[str, Any]) -> torch.Tensor:
        with torch.no_grad():
            rows: torch.Tensor = model(**sample).logits[:, asked - 1 : -1].argmax(-1)
        return rows

    assert torch.equal(written(sample), sample["input_ids"][:, asked:])
    blind = {**sample, "cross_attention_mask": torch.zeros_like(seen)}
    assert not torch.equal(written(blind), sample["input_ids"][:, asked:])


def test_group_sizes_divide_every_layer() -> None:
    assert _group_size({384, 1536}) == 128
    assert _group_size({192, 768}) == 64
    assert _group_size({96, 1024}) == 32
    with pytest.raises(ConfigurationError, match=r"48, 96 inputs, .*multiples of 32: use .* w8a8"):
        _group_size({96, 48})


def test_refusals(t5_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="fp8, w8a8, w4a16, not int3"):
        Quantization("int3")
    model = ModelConfig.load(ModelOptions(model=str(t5_folder)))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="is not empty"):
        quantize(model, Quantization("fp8"), tmp_path)
    assert find_spec("llmcompressor") is None
    with pytest.raises(ConfigurationError, match=r"needs llm-compressor.*antiphon\[quantize\]"):
        quantize(model, Quantization("fp8"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
