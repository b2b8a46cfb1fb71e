"""Settings of LLaVA and LLaVA-OneVision that no encoder of ours has are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    BeitConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaOnevisionConfig,
    SiglipVisionConfig,
)

from antiphon.config.errors import AntiphonError, CheckpointError, UnsupportedModelError
from antiphon.config.options import ModelOptions
from antiphon.families.checkpoint import ModelConfig

NEXT = "LlavaNextForConditionalGeneration"
ONEVISION = "LlavaOnevisionForConditionalGeneration"


@pytest.mark.parametrize(
    ("architecture", "settings", "error", "message"),
    [
        (
            "LlavaForConditionalGeneration",
            {"vision_feature_layer": 99},
            CheckpointError,
            "vision_feature_layer=99: the vision encoder has 24 layers",
        ),
        (
            "LlavaForConditionalGeneration",
            {"vision_feature_layer": [-1, -40]},
            CheckpointError,
            "vision_feature_layer=-40: the vision encoder has 24 layers",
        ),
        (
            NEXT,
            {"text_config": {"model_type": "mistral", "sliding_window": 4096}},
            UnsupportedModelError,
            "sliding_window=4096: attention to the latest tokens alone",
        ),
        (
            ONEVISION,
            {"vision_aspect_ratio": "square"},
            UnsupportedModelError,
            "vision_aspect_ratio='square': only anyres_max_N is supported",
        ),
        (
            ONEVISION,
            {"vision_feature_select_strategy": "default"},
            UnsupportedModelError,
            "drops a patch: SigLIP has no class token",
        ),
        (
            ONEVISION,
            {"vision_config": {"model_type": "clip_vision_model"}},
            UnsupportedModelError,
            "vision_feature_select_strategy='full': a class token is no patch",
        ),
        (
            "BeitModel",
            {"image_size": [224, 384]},
            UnsupportedModelError,
            "images of 224 x 384 pixels: of BEiT, only square ones",
        ),
    ],
)
def test_settings_that_are_refused(
    architecture: str,
    settings: dict[str, Any],
    error: type[AntiphonError],
    message: str,
    tmp_path: Path,
) -> None:
    kinds = {ONEVISION: LlavaOnevisionConfig, NEXT: LlavaNextConfig, "BeitModel": BeitConfig}
    kind = kinds.get(architecture, LlavaConfig)
    config = {**kind().to_dict(), "architectures": [architecture], **settings}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=message):
        ModelConfig.load(ModelOptions(str(tmp_path)))


def test_rows_of_a_published_shape(tmp_path: Path) -> None:
    """llava-onevision-qwen2-7b: a 2 x 2 image of 384 pixels a tile."""
    vision = SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=26, num_attention_heads=16,
        image_size=384, patch_size=14,
    )  # fmt: skip
    config = {**LlavaOnevisionConfig(vision_config=vision).to_dict(), "architectures": [ONEVISION]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    half: Any = ModelConfig.load(ModelOptions(str(tmp_path))).encoder
    assert half.head_dim == 72
    assert half.tiles.rows(5, (768, 768)) == 27 * 27 + 54 * 55
    assert half.tiles.rows(1, (768, 768)) == 27 * 27 + 1
