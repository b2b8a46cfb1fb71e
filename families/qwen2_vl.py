"""Qwen2-VL (Wang et al. 2024): images of any size, merged patches in the prompt of Qwen2, whose
positions are by frame, row and column."""

from antiphon.families.family import Config
from antiphon.families.qwen_vision import qwen2_vl
from antiphon.families.qwen_vision_half import QwenVisionHalf
from antiphon.families.vision_language import vision_language


def _encoder(config: Config) -> QwenVisionHalf:
    return qwen2_vl(config["vision_config"])


FAMILY = vision_language("qwen2_vl", "Qwen2VLForConditionalGeneration", _encoder)
