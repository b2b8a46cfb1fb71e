"""The encoders of vision-language models give the rows that transformers puts into prompts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_vision import (
    QWEN2_5_VL,
    QWEN2_VL,
    SIZES,
    pixels,
    qwen_pixels,
    save,
    values,
)
from transformers import (
    CLIPVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from antiphon.config.generation import GenerationDefaults
from antiphon.config.options import resolve
from antiphon.encoder.runner import EncoderRunner
from antiphon.families import vision_towers
from antiphon.families.checkpoint import ModelConfig
from antiphon.families.family import Family

TEXT = {
    "hidden_size": 20, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
ROPE = {"rope_type": "default", "mrope_section": [2, 2, 1], "rope_theta": 10_000.0}


def internvl() -> PreTrainedModel:
    vision = {**SIZES, "image_size": [32, 32], "patch_size": [8, 8]}
    return InternVLForConditionalGeneration(
        InternVLConfig(vision_config=vision, text_config=Qwen2Config(**TEXT))
    )


def llava() -> PreTrainedModel:
    """Reads the states before the last layer, without the class token."""
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**SIZES),
            text_config=Qwen2Config(**TEXT),
            vision_feature_layer=-2,
        )
    )


def qwen2_vl() -> PreTrainedModel:
    text = {**TEXT, "rope_parameters": ROPE}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(vision_config=QWEN2_VL, text_config=text))


def qwen2_5_vl() -> PreTrainedModel:
    text = {**TEXT, "rope_parameters": ROPE}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(vision_config=QWEN2_5_VL, text_config=text)
    )


MODELS = {"internvl": internvl, "llava": llava, "qwen2_vl": qwen2_vl, "qwen2_5_vl": qwen2_5_vl}


def encoder_of(folder: Path, model: PreTrainedModel) -> EncoderRunner:
    """As a family with a decoder would describe it."""
    config = resolve(str(folder), {"device": "cpu"})
    raw = model.config.to_dict()
    half = vision_towers.vision_tower(raw)
    described = ModelConfig(
        folder, "", raw, {}, GenerationDefaults.of({}, {}, 0), half, None, 0, half.max_positions
    )
    vars(described)["family"] = Family(
        name=raw["model_type"],
        architectures=(),
        input="image",
        describe=lambda config, side: half,
        encoder_names=vision_towers.TOWER_NAMES,
        ignored=vision_towers.TOWER_IGNORED,
    )
    return EncoderRunner(described, config)


@torch.inference_mode()
@pytest.mark.parametrize("name", list(MODELS))
def test_rows_are_those_that_transformers_merges_into_prompts(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model: Any = save(MODELS[name](), tmp_path)
    with caplog.at_level("WARNING", "antiphon"):
        runner = encoder_of(tmp_path, model)
    assert caplog.messages == []
    if name.startswith("qwen"):
        images = [qwen_pixels(seed, *grid) for seed, grid in enumerate([(1, 4, 8), (1, 6, 2)])]
    else:
        side = 32 if name == "internvl" else 24
        images = [pixels(seed, tiles, 3, side, side) for seed, tiles in enumerate([1, 3, 1])]
    encoded = runner.encode(images)
    for image, rows in zip(images, encoded.hidden.split(encoded.lengths), strict=True):
        given = values(image)
        if name.startswith("qwen"):
            grid = torch.tensor([given.shape[:3]])
            features = model.model.get_image_features(given.flatten(0, 2), grid).pooler_output
        else:
            features = model.model.get_image_features(given).pooler_output
        wanted = torch.cat(list(features)).flatten(0, -2)
        assert rows.shape == wanted.shape
        assert (rows - wanted).abs().max() <= 1e-4 * wanted.abs().max()
